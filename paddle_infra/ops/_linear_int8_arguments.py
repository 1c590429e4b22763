"""Checks the arguments of linear_int8, for every implementation of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle

from paddle_infra._core.checks import check_choice, check_shape, check_tensor, device_of
from paddle_infra._core.errors import InvalidInputError

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu", "silu")  # in the order of csrc/common/activation.h
ZERO = 1e-30  # rows and channels of which nothing is as large as this count as 0


@dataclass(frozen=True)
class Arguments:
    """Checked arguments of linear_int8."""

    x: paddle.Tensor
    weight: paddle.Tensor
    weight_scale: paddle.Tensor
    bias: paddle.Tensor | None
    activation: str


def check_linear(x: Any, weight_int8: Any, weight_scale: Any, bias: Any, activation: Any) -> Arguments:
    """Check everything that needs no computation."""
    check_choice("activation", activation, ACTIVATIONS)
    check_tensor("x", x, ("float32",))
    check_tensor("weight_int8", weight_int8, ("int8",))
    check_tensor("weight_scale", weight_scale, ("float32",))
    if bias is not None:
        check_tensor("bias", bias, ("float32",))
    for name, tensor in (("weight_int8", weight_int8), ("weight_scale", weight_scale), ("bias", bias)):
        if tensor is not None and device_of(tensor) != device_of(x):
            raise InvalidInputError(
                f"{name}: expected a tensor on {device_of(x)}, where x is, got one on {device_of(tensor)}"
            )
    if x.ndim < 1 or x.shape[-1] == 0:
        raise InvalidInputError(f"x: expected shape [..., K] with K at least 1, got {list(x.shape)}")
    if weight_int8.ndim != 2 or 0 in weight_int8.shape:
        raise InvalidInputError(
            f"weight_int8: expected two dimensions, none of them 0, got {list(weight_int8.shape)}"
        )
    columns = weight_int8.shape[1]
    check_shape("weight_int8", weight_int8, [x.shape[-1], columns], "[K, N]")
    check_shape("weight_scale", weight_scale, [columns], "[N]")
    if bias is not None:
        check_shape("bias", bias, [columns], "[N]")
    return Arguments(x, weight_int8, weight_scale, bias, activation)
