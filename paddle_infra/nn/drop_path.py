"""Stochastic depth: leave out a residual branch for some samples."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_infra._core.checks import check_number
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.sizes import size_of


def check_drop_path(probability: float) -> float:
    """Return the probability if it is in [0, 1).

    Raises:
        InvalidDtypeError: it is not a number.
        InvalidInputError: it is outside.
    """
    check_number("drop_path", probability)
    if not (probability >= 0.0 and float(np.float32(probability)) < 1.0):
        raise InvalidInputError(f"drop_path: expected a probability in [0, 1), got {probability!r}")
    return float(probability)


def drop_path(x: Tensor, probability: float, training: bool) -> Tensor:
    """Do as :class:`DropPath`."""
    if not training or probability == 0.0:
        return x
    is_kept = paddle.rand([size_of(x, 0)] + [1] * (x.ndim - 1), x.dtype) >= probability
    return x * (is_kept.astype(x.dtype) / (1.0 - probability))


class DropPath(nn.Layer):
    """In training, make whole samples zeros with a probability and divide the others by one minus it.

    At the end of a residual branch this is stochastic depth: the branch is left out for some samples, and the
    expected sum stays what it is in evaluation, where all pass unchanged.

    Args:
        probability: at least 0 and below 1.

    Shapes:
        ``[batch_size, ...]`` to the same.

    References:
        Huang et al., "Deep Networks with Stochastic Depth", arXiv:1603.09382; there, what is kept is not divided and
        evaluation multiplies instead.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = check_drop_path(probability)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is kept."""
        return drop_path(x, self.probability, self.training)
