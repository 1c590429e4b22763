"""A fused form of a layer: a class that the same object takes on, and puts off again.

Nothing is copied and no object is replaced: the layer keeps its parameters, sublayers, buffers, hooks, mode and name.
So ``state_dict``, optimizers, checkpoints, ties between weights and everybody's references to the layer are as before,
and putting the old class back puts everything back.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from paddle import nn


class Fused(nn.Layer):
    """Base of the fused forms. A form computes what the class it stands before computes, or calls that."""

    operators: ClassVar[str]  # what runs instead, for the report
    unless: ClassVar[str] = ""  # when the original code runs after all
    own_attributes: ClassVar[tuple[str, ...]] = ()  # what the form adds to the layer, removed with it
    original: ClassVar[Any]  # the class it stands before

    @classmethod
    def refusals(cls, layer: nn.Layer) -> list[str]:
        """Return the reasons why a layer of the right class cannot take this form; none: it can."""
        return ["its forward was replaced"] if "forward" in vars(layer) else []

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class has no name in a module; copies and pickles find it by its two parts.
        return _blank, (type(self).__mro__[1], type(self).original), vars(self).copy()


@cache
def _fused_class(form: Any, original: Any) -> Any:
    names = {"original": original, "__module__": form.__module__, "__doc__": form.__doc__}
    return type(f"Fused{original.__name__}", (form, original), names)


def _blank(form: Any, original: Any) -> Any:
    made = _fused_class(form, original)
    return made.__new__(made)


def put_on(layer: Any, form: Any) -> None:
    """Give the layer its fused form."""
    original: Any = type(layer)
    object.__setattr__(layer, "__class__", _fused_class(form, original))


def put_off(layer: Any) -> None:
    """Give the layer its own class back."""
    for name in type(layer).own_attributes:
        vars(layer).pop(name, None)
    object.__setattr__(layer, "__class__", type(layer).original)


def original_class(layer: Any) -> type:
    """Return the class of a layer, as if it had no fused form."""
    return type(layer).original if isinstance(layer, Fused) else type(layer)


def is_plain(layer: Any, expected: type) -> bool:
    """Whether calling the layer does what its class says: the class itself, no hooks, no forward of its own.

    Looked at in every call: adapters replace sublayers, and hooks come and go.
    """
    return (
        original_class(layer) is expected
        and not layer._forward_pre_hooks
        and not layer._forward_post_hooks
        and "forward" not in vars(layer)
    )


def is_plain_dropout(layer: Any) -> bool:
    """Whether the layer drops single numbers and scales up the rest, as the fused operators do."""
    return (
        is_plain(layer, nn.Dropout)
        and layer.axis is None
        and layer.mode == "upscale_in_train"
        and 0.0 <= layer.p < 1.0
    )
