"""What operators without a gradient say to those who would want one."""

from __future__ import annotations

from typing import Any

import paddle

from paddle_infra._core.errors import UnsupportedError


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
