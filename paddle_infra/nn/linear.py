"""A linear layer with an activation, and its weight kept ready for bfloat16 products."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra.ops.linear import ActivationName


class Linear(nn.Linear):
    r"""``paddle.nn.Linear`` with an activation, :math:`f(x W + b)`, computed by :func:`paddle_infra.ops.linear`.

    Parameters and their names are those of ``paddle.nn.Linear``. With "medium" precision, in evaluation mode and
    without gradients, the weight is rounded to bfloat16 once and kept until it changes. Its address, Paddle's
    counter of changes in place, and a sample of its numbers with one of every row and column tell: optimizers and
    ``set_value`` do not count up. So one case is not noticed: a ``set_value`` that leaves all but single numbers as
    they were (``weight[i, j] = value`` is). A call with gradients drops what is kept, since what follows may be a
    step of an optimizer.

    Args:
        in_features: width of the input.
        out_features: columns of the weight; for ``"swiglu"`` the result has half as many.
        activation: see :func:`paddle_infra.ops.linear`.
        options: of ``paddle.nn.Linear``: ``weight_attr``, ``bias_attr``, ``name``.

    Shapes:
        ``[..., in_features]`` to ``[..., out_features]``.
    """

    def __init__(
        self, in_features: int, out_features: int, activation: ActivationName = "none", **options: Any
    ) -> None:
        super().__init__(in_features, out_features, **options)
        self.activation = activation
        self._kept: _Kept | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        weight = self.weight
        return ops.linear(
            x, weight, self.bias, activation=self.activation, packed_weight=self._packed_weight(weight)
        )

    def _packed_weight(self, weight: Tensor) -> Tensor | None:
        if ops.get_matmul_precision() != "medium" or not paddle.in_dynamic_mode():
            return None
        kept = self._kept  # looked at once: another thread may drop it meanwhile
        if self.training or paddle.is_grad_enabled() or not _is_packable(weight):
            if kept is not None:
                self._kept = None
            return None
        if kept is None or not kept.is_of(weight):
            self._kept = kept = _Kept.of(weight)
        return kept.packed


def _is_packable(weight: Tensor) -> bool:
    return weight.dtype == paddle.float32 and weight.place.is_cpu_place() and weight.is_contiguous()


@dataclass(frozen=True)
class _Kept:
    """A rounded weight, and what the weight was like then."""

    packed: Tensor
    address: int
    changes: int
    view: np.ndarray  # some of the weight's numbers, where they are, as bits: a NaN is equal to itself
    sample: np.ndarray  # what they were

    @classmethod
    def of(cls, weight: Tensor) -> _Kept:
        address, (rows, columns) = weight.data_ptr(), weight.shape
        bits = np.ctypeslib.as_array((ctypes.c_uint32 * (rows * columns)).from_address(address))
        view = bits[:: _sample_step(rows, columns)]
        return cls(ops.pack_weight(weight), address, weight.inplace_version, view, view.copy())

    def is_of(self, weight: Tensor) -> bool:
        # The address first: numbers may be looked at only where the weight still is.
        return (
            self.address == weight.data_ptr()
            and self.changes == weight.inplace_version
            and bool((self.view == self.sample).all())
        )

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # Copied and pickled to None: a copy's view would be numbers of its own, which never change.
        return type(None), ()


def _sample_step(rows: int, columns: int) -> int:
    """Return a step through a matrix, row after row, that meets every row and every column.

    Steps of at most ``columns`` leave out no row. If the two have no common divisor, ``columns`` steps meet every
    column once, and there are as many if a step is at most ``rows``.
    """
    step = max(1, min(rows, columns - 1))
    while math.gcd(step, columns) != 1:
        step -= 1
    return step
