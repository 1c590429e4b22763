"""Recomputation (gradient checkpointing): less memory for activations, for a second forward pass of some layers."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import paddle

from paddle_infra._core.errors import InvalidInputError, UnsupportedError


def recompute_layers(model: paddle.nn.Layer, names: str | Sequence[str]) -> list[str]:
    """Let the sublayers named by ``names`` forget their activations in training, and compute them again for backward.

    Gradients and dropout are the same as without: the random state of the forward pass is put back for the second.
    Structured names, and so checkpoints, do not change. Layers inside a chosen layer need not be named. Nothing
    happens in evaluation mode, without gradients, or where no input of the layer needs a gradient (the activations of
    the first layer above frozen embeddings are kept).

    Args:
        model: changed in place.
        names: patterns of structured names as in ``fnmatch``, e.g. ``"encoder.stack.layers.*"``; ``*`` does not match
            a dot.

    Returns:
        The names of the chosen layers.

    Raises:
        InvalidInputError: a pattern matches no layer, or only layers that are chosen already; the model is unchanged.

    References:
        Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174, through
        ``paddle.distributed.fleet.utils.recompute``.
    """
    layers = dict(model.named_sublayers())
    chosen: list[str] = []
    for pattern in [names] if isinstance(names, str) else names:
        matches = [name for name in layers if _matches(name, pattern)]
        if not matches:
            raise InvalidInputError(
                f"recompute_layers: expected the names of sublayers, got {pattern!r}, which matches none of "
                f"{sorted(layers)}"
            )
        chosen += [name for name in matches if name not in chosen]
    repeated = [name for name in chosen if "forward" in layers[name].__dict__]
    if repeated:
        raise InvalidInputError(
            f"recompute_layers: expected layers with the forward of their class, got {repeated}, whose forward is "
            "replaced already"
        )
    for name in chosen:
        layers[name].forward = _Recomputed(layers[name])
    return chosen


def _matches(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


class _Recomputed:
    """The forward of a layer that is computed again for backward.

    An object, not a closure, so that a deep copy of the model calls the copied layer.
    """

    def __init__(self, layer: paddle.nn.Layer) -> None:
        self._layer = layer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from paddle.distributed.fleet.utils import recompute

        layer, names = self._layer, list(kwargs)
        values = [*args, *kwargs.values()]
        original = type(layer).forward
        if not layer.training or not paddle.is_grad_enabled() or not _needs_gradient(values):
            return original(layer, *args, **kwargs)

        def positional(*values: Any) -> Any:  # Paddle's recompute refuses keyword-only arguments
            return original(layer, *values[: len(args)], **dict(zip(names, values[len(args) :], strict=True)))

        return recompute(positional, *values)


def _needs_gradient(inputs: Sequence[Any]) -> bool:
    """Return whether gradients flow to an input: without one, Paddle's recompute gives the parameters inside none.

    Raises:
        UnsupportedError: they flow to a tensor inside a list or a dict, to which Paddle's recompute does not follow.
    """
    flat: list[paddle.Tensor] = []
    for value in inputs:
        flat += value if isinstance(value, tuple) else [value]
    hidden = [value for value in flat if isinstance(value, (list, dict, tuple)) and _has_gradient(value)]
    if hidden:
        raise UnsupportedError(
            f"recompute_layers: expected tensors, or tuples of them, as inputs with a gradient, got a "
            f"{type(hidden[0]).__name__} of them"
        )
    return any(isinstance(value, paddle.Tensor) and not value.stop_gradient for value in flat)


def _has_gradient(value: Any) -> bool:
    if isinstance(value, paddle.Tensor):
        return not value.stop_gradient
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, (list, tuple)) and any(map(_has_gradient, value))
