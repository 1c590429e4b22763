"""A linear layer with an activation, and its weight kept ready for bfloat16 products."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra.ops.linear import ActivationName

_SAMPLES = 64  # numbers of a weight that are compared to see whether it changed


class Linear(nn.Linear):
    r"""``paddle.nn.Linear`` with an activation, :math:`f(x W + b)`, computed by :func:`paddle_infra.ops.linear`.

    Parameters and their names are those of ``paddle.nn.Linear``. With "medium" precision, in evaluation mode and
    without gradients, the weight is rounded to bfloat16 once and kept until it changes: Paddle's counter of changes
    in place, its address, and a sample of its numbers tell (optimizers and ``set_value`` do not count up). A call
    with gradients drops it, since what follows may be a step of an optimizer.

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
        return ops.linear(
            x, self.weight, self.bias, activation=self.activation, packed_weight=self._packed_weight()
        )

    def _packed_weight(self) -> Tensor | None:
        if ops.get_matmul_precision() != "medium" or not paddle.in_dynamic_mode():
            return None
        if self.training or paddle.is_grad_enabled() or not _is_packable(self.weight):
            self._kept = None
            return None
        if self._kept is None or not self._kept.is_of(self.weight):
            self._kept = _Kept.of(self.weight)
        return self._kept.packed


def _is_packable(weight: Tensor) -> bool:
    return weight.dtype == paddle.float32 and weight.place.is_cpu_place() and weight.is_contiguous()


@dataclass(frozen=True)
class _Kept:
    """A rounded weight, and what the weight was like then."""

    packed: Tensor
    address: int
    changes: int
    view: np.ndarray  # some of the weight's numbers, where they are
    sample: np.ndarray  # what they were

    @classmethod
    def of(cls, weight: Tensor) -> _Kept:
        address, size = weight.data_ptr(), int(weight.size)
        numbers = np.ctypeslib.as_array((ctypes.c_float * size).from_address(address))
        view = numbers[:: max(1, size // _SAMPLES)]
        return cls(ops.pack_weight(weight), address, weight.inplace_version, view, view.copy())

    def is_of(self, weight: Tensor) -> bool:
        # The address first: numbers may be looked at only where the weight still is.
        return (
            self.address == weight.data_ptr()
            and self.changes == weight.inplace_version
            and np.array_equal(self.view, self.sample, equal_nan=True)
        )
