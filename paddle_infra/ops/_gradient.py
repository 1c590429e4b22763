"""Gradients that operators lack, and gradients that nobody wants."""

from __future__ import annotations

from typing import Any

import paddle

from paddle_infra._core.errors import UnsupportedError


def recorded_if_wanted(results: list[paddle.Tensor]) -> list[paddle.Tensor]:
    """Cut results off from their inputs under no_grad.

    Paddle records compiled operators there too, which keeps the inputs of a whole network in memory.
    """
    if paddle.is_grad_enabled() or not paddle.in_dynamic_mode():
        return results
    return [result.detach() for result in results]


def needs_gradient(*tensors: Any) -> bool:
    """Whether Paddle would want a gradient. A program does not say: its parameters want one in inference too."""
    if not (paddle.in_dynamic_mode() and paddle.is_grad_enabled()):
        return False
    return any(isinstance(x, paddle.Tensor) and not x.stop_gradient for x in tensors)


def refuse_gradient(operator: str, instead: str, *tensors: Any) -> None:
    """Raise if one of the tensors needs a gradient.

    Raises:
        UnsupportedError: it does.
    """
    if needs_gradient(*tensors):
        raise UnsupportedError(
            f"{operator}: expected tensors that need no gradient, because it has none, got one with "
            f"stop_gradient=False: call it under paddle.no_grad(), or use {instead}"
        )
