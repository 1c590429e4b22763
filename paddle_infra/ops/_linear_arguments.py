"""Checks the arguments of linear, for every implementation of it."""

from __future__ import annotations

from dataclasses import dataclass

import paddle

from paddle_infra._core.checks import UNKNOWN, check_choice, check_shape, check_tensor, dtype_name
from paddle_infra._core.errors import InvalidInputError

ACTIVATIONS = (
    "none",
    "gelu",
    "gelu_tanh",
    "relu",
    "silu",
    "swiglu",
)  # in the order of csrc/common/activation.h
_FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Arguments:
    """Checked arguments of linear."""

    x: paddle.Tensor
    weight: paddle.Tensor
    bias: paddle.Tensor | None
    activation: str
    packed_weight: paddle.Tensor | None


def check(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    bias: paddle.Tensor | None = None,
    *,
    activation: str = "none",
    packed_weight: paddle.Tensor | None = None,
) -> Arguments:
    """Check everything that needs no computation."""
    check_choice("activation", activation, ACTIVATIONS)
    check_tensor("x", x, _FLOATS)
    dtype = dtype_name(x)
    check_tensor("weight", weight, (dtype,))
    if x.ndim < 1 or x.shape[-1] == 0:
        raise InvalidInputError(f"x: expected shape [..., K] with K at least 1, got {list(x.shape)}")
    if weight.ndim != 2 or 0 in weight.shape:
        raise InvalidInputError(f"weight: expected two dimensions, none of them 0, got {list(weight.shape)}")
    features, columns = weight.shape
    check_shape("weight", weight, [x.shape[-1], columns], "[K, N], K the last axis of x")
    if activation == "swiglu" and columns != UNKNOWN and columns % 2:
        raise InvalidInputError(f"weight: expected an even number of columns for swiglu, got {columns}")
    if bias is not None:
        check_tensor("bias", bias, (dtype,))
        check_shape("bias", bias, [columns], "[N]")
    if packed_weight is not None:
        check_tensor("packed_weight", packed_weight, ("bfloat16",))
        check_shape("packed_weight", packed_weight, [features, columns], "shape of weight")
    return Arguments(x, weight, bias, activation, packed_weight)
