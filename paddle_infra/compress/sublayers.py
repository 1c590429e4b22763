"""Finding and replacing the sublayers of a model by their names."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import paddle

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError

Layer = Any  # a paddle.nn.Layer, which mypy sees as untyped


def check_model(model: Any) -> None:
    """Raise unless ``model`` is a Layer.

    Raises:
        InvalidDtypeError: it is not.
    """
    if not isinstance(model, paddle.nn.Layer):
        raise InvalidDtypeError(f"model: expected a paddle.nn.Layer, got {type(model).__name__}")


def target_of(model: Layer, *, in_place: bool) -> Layer:
    """Return the model itself, or a copy that shares nothing with it.

    Raises:
        InvalidDtypeError: it is no Layer.
    """
    check_model(model)
    return model if in_place else copy.deepcopy(model)


def chosen(
    model: Layer,
    is_candidate: Callable[[Layer], bool],
    names: str | Sequence[str],
    exclude: Sequence[str],
    kind: str,
) -> dict[str, Layer]:
    """Return the candidates whose names fit ``names`` and not ``exclude``, in the model's order.

    Args:
        model: where to look; a layer with several names has its first.
        is_candidate: whether a sublayer is of the wanted kind.
        names: a pattern (``*``, ``?``) or several.
        exclude: patterns of names to leave out.
        kind: what the candidates are, for errors.

    Raises:
        InvalidInputError: a pattern fits no candidate.
    """
    found = {name: layer for name, layer in model.named_sublayers() if is_candidate(layer)}
    patterns = [names] if isinstance(names, str) else list(names)
    excluded = [exclude] if isinstance(exclude, str) else list(exclude)
    for pattern in (*patterns, *excluded):
        if not fnmatch.filter(found, pattern):
            raise InvalidInputError(
                f"{kind}: expected a pattern that fits one of {_some(found)}, got {pattern!r}"
            )
    return {
        name: layer
        for name, layer in found.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in excluded)
    }


def layer_named(model: Layer, name: str, kinds: type | tuple[type, ...], argument: str) -> Layer:
    """Return the sublayer of that name and kind.

    Raises:
        InvalidInputError: there is none, or it is of another kind.
    """
    layers = dict(model.named_sublayers())
    fitting = [other for other, layer in layers.items() if isinstance(layer, kinds)]
    if name not in fitting:
        raise InvalidInputError(f"{argument}: expected one of {_some(fitting)}, got {name!r}")
    return layers[name]


def replace_layers(model: Layer, replacements: Mapping[int, Layer]) -> None:
    """Put layers in the place of others, wherever these stand: keys are the ``id`` of what goes."""
    for parent in model.sublayers(include_self=True):
        for name, child in list(parent._sub_layers.items()):
            if id(child) in replacements:
                parent._sub_layers[name] = replacements[id(child)]


def set_parameter(layer: Layer, name: str, value: paddle.Tensor) -> None:
    """Replace a parameter by one with this value, whatever its shape, trainable as it was before."""
    old = getattr(layer, name)
    new = layer.create_parameter(
        value.shape, dtype=value.dtype, default_initializer=paddle.nn.initializer.Constant(0.0)
    )
    new.set_value(value.detach())
    new.stop_gradient = old.stop_gradient
    setattr(layer, name, new)


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (f", … ({len(listed)} in all)" if len(listed) > 8 else "") or "none"
