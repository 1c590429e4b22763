"""Checks the arguments of linear_topk and linear_topk_log_prob, for every implementation of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle

from paddle_infra._core.checks import (
    UNKNOWN,
    check_choice,
    check_integer,
    check_number,
    check_shape,
    check_tensor,
    device_of,
    dtype_name,
)
from paddle_infra._core.errors import InvalidInputError

_FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Arguments:
    """Checked arguments; ``is_log``: the result is the logarithm of the probabilities."""

    hidden: paddle.Tensor
    weight: paddle.Tensor
    bias: paddle.Tensor | None
    k: int
    softcap: float
    weight_layout: str
    is_log: bool


def check_topk(
    hidden: Any, weight: Any, k: Any, bias: Any, softcap: Any, weight_layout: Any, is_log: bool
) -> Arguments:
    """Check everything that needs no computation."""
    check_choice("weight_layout", weight_layout, ("vd", "dv"))
    softcap = check_number("softcap", softcap, 0.0)
    check_tensor("hidden", hidden, _FLOATS)
    dtype = dtype_name(hidden)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None and name == "bias":
            continue
        check_tensor(name, tensor, (dtype,))
        if device_of(tensor) != device_of(hidden):
            raise InvalidInputError(
                f"{name}: expected a tensor on {device_of(hidden)}, where hidden is, got one on "
                f"{device_of(tensor)}"
            )
    if hidden.ndim < 1 or hidden.shape[-1] == 0:
        raise InvalidInputError(
            f"hidden: expected shape [..., D] with D at least 1, got {list(hidden.shape)}"
        )
    if weight.ndim != 2 or 0 in weight.shape:
        raise InvalidInputError(f"weight: expected two dimensions, none of them 0, got {list(weight.shape)}")
    num_classes = weight.shape[0 if weight_layout == "vd" else 1]
    if weight_layout == "vd":
        check_shape("weight", weight, [num_classes, hidden.shape[-1]], "[V, D], weight_layout='vd'")
    else:
        check_shape("weight", weight, [hidden.shape[-1], num_classes], "[D, V], weight_layout='dv'")
    if bias is not None:
        check_shape("bias", bias, [num_classes], "[V]")
    if check_integer("k", k) < 1 or (num_classes != UNKNOWN and k > num_classes):
        most = "the number of classes" if num_classes == UNKNOWN else num_classes
        raise InvalidInputError(f"k: expected 1 to {most}, got {k}")
    return Arguments(hidden, weight, bias, k, softcap, weight_layout, is_log)
