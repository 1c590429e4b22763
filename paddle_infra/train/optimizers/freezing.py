"""Freezing parts of a model by name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import paddle

from paddle_infra._core.errors import InvalidInputError

#: Parameters of Paddle's normalisation layers that are not learned: running statistics and power iteration vectors.
_STATISTICS = ("_mean", "_variance", "weight_u", "weight_v")


def freeze(model: paddle.nn.Layer, patterns: Sequence[str]) -> list[str]:
    """Stop the gradients of all parameters whose structured name fits one of ``patterns``; return their names.

    Make the optimizer afterwards. A frozen BatchNorm layer still updates its running statistics in training mode.

    Args:
        model: the layer.
        patterns: shell patterns (``*``, ``?``, ``[…]``) of whole names, e.g. ``["embeddings.*", "*.layers.[0-5].*"]``.

    Raises:
        InvalidInputError: a pattern matches no parameter; nothing is changed.
    """
    return _set_frozen(model, patterns, True)


def unfreeze(model: paddle.nn.Layer, patterns: Sequence[str]) -> list[str]:
    """Let all parameters whose structured name fits one of ``patterns`` learn; return their names.

    An optimizer that was made while they were frozen does not hold them.

    Raises:
        InvalidInputError: a pattern matches no parameter; nothing is changed.
    """
    return _set_frozen(model, patterns, False)


def learned_parameters(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """Return the parameters by structured name, without running statistics, which Paddle counts among them."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.rsplit(".", 1)[-1] not in _STATISTICS or not parameter.stop_gradient
    }


def match_patterns(names: Sequence[str], patterns: Sequence[str], argument: str) -> list[str]:
    """Return the ``names`` that fit one of the shell ``patterns``, in their order.

    Raises:
        InvalidInputError: there is no pattern, or one fits no name.
    """
    if isinstance(patterns, str) or not patterns:
        raise InvalidInputError(f"{argument}: expected a list of patterns, got {patterns!r}")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InvalidInputError(
                f"{argument}: expected patterns that match parameters, got {pattern!r}; names: {list(names)}"
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _set_frozen(model: paddle.nn.Layer, patterns: Sequence[str], is_frozen: bool) -> list[str]:
    parameters = learned_parameters(model)
    names = match_patterns(list(parameters), patterns, "patterns")
    for name in names:
        parameters[name].stop_gradient = is_frozen
    return names
