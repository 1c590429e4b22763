"""Gradient clipping that says what it found: Paddle's, with the norm kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import paddle

from paddle_infra._core.errors import InvalidInputError, NonFiniteLossError

SumOfParts = Callable[[float], float] | None


class ClipByGlobalNorm(paddle.nn.ClipGradByGlobalNorm):
    r"""Scales all gradients by :math:`\min(1, c / \lVert g \rVert_2)`, the norm over all of them together.

    Pass it as an optimizer's ``grad_clip``. A norm that is NaN or infinite is an error before any parameter has
    changed (see ``Trainer(non_finite=...)``).

    Args:
        max_norm: the norm *c*, above 0; ``math.inf`` only measures.

    Attributes:
        last_norm: norm of the last step's gradients before scaling; None before the first.
        sum_squares: adds the squared norms of the parts that processes hold; None where each holds all.
    """

    def __init__(self, max_norm: float) -> None:
        if not max_norm > 0:
            raise InvalidInputError(f"max_norm: expected a positive number, got {max_norm!r}")
        super().__init__(max_norm)
        self.max_norm = float(max_norm)
        self.last_norm: float | None = None
        self.sum_squares: SumOfParts = None

    def _dygraph_clip(self, params_grads: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        clipped = [
            (parameter, gradient)
            for parameter, gradient in params_grads
            if gradient is not None and getattr(parameter, "need_clip", True)
        ]
        self.last_norm = global_norm([gradient for _, gradient in clipped], self.sum_squares)
        if not math.isfinite(self.last_norm):
            raise NonFiniteLossError(f"expected finite gradients, got the norm {self.last_norm}")
        if self.last_norm <= self.max_norm:
            return params_grads
        scale = self.max_norm / self.last_norm
        chosen = {id(gradient) for _, gradient in clipped}
        return [(p, g * scale if id(g) in chosen else g) for p, g in params_grads]


class ClipByValue(paddle.nn.ClipGradByValue):
    """Cuts every gradient off at ``-limit`` and ``limit``.

    Args:
        limit: the largest magnitude, above 0.

    Attributes:
        last_norm: norm of the last step's gradients before the cut; None before the first.
        sum_squares: as in :class:`ClipByGlobalNorm`.
    """

    def __init__(self, limit: float) -> None:
        if not limit > 0 or not math.isfinite(limit):
            raise InvalidInputError(f"limit: expected a positive number, got {limit!r}")
        super().__init__(limit)
        self.last_norm: float | None = None
        self.sum_squares: SumOfParts = None

    def _dygraph_clip(self, params_grads: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        present = [gradient for _, gradient in params_grads if gradient is not None]
        self.last_norm = global_norm(present, self.sum_squares)
        if not math.isfinite(self.last_norm):
            raise NonFiniteLossError(f"expected finite gradients, got the norm {self.last_norm}")
        return super()._dygraph_clip(params_grads)


def global_norm(gradients: list[paddle.Tensor], sum_squares: SumOfParts = None) -> float:
    """Return the Euclidean norm of all gradients together; squares are summed in float32 per tensor, then float64."""
    total = 0.0
    if gradients:
        squares = paddle.stack([paddle.sum(paddle.square(g.astype("float32"))) for g in gradients])
        total = float(squares.astype("float64").sum())
    return math.sqrt(total if sum_squares is None else sum_squares(total))


def measured_norm(optimizer: paddle.optimizer.Optimizer) -> float | None:
    """Return the gradient norm that the optimizer's clipping has measured in the last step, if it does."""
    return getattr(getattr(optimizer, "_grad_clip", None), "last_norm", None)
