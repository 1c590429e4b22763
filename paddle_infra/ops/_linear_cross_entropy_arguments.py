"""Checks and converts the arguments of linear_cross_entropy, for every implementation of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import paddle

from paddle_infra._core.checks import (
    check_choice,
    check_integer,
    check_number,
    check_shape,
    check_tensor,
    dtype_name,
)
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.ops._head_operator import REDUCTIONS

_FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Arguments:
    """Checked arguments of linear_cross_entropy; class and token weights have the dtype of the loss."""

    hidden: paddle.Tensor
    weight: paddle.Tensor
    label: paddle.Tensor
    bias: paddle.Tensor | None
    ignore_index: int
    label_smoothing: float
    class_weight: paddle.Tensor | None
    token_weight: paddle.Tensor | None
    z_loss: float
    softcap: float
    reduction: str
    weight_layout: str


def check(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    label: paddle.Tensor,
    *,
    bias: paddle.Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weight: paddle.Tensor | None = None,
    token_weight: paddle.Tensor | None = None,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    reduction: str = "mean",
    weight_layout: str = "vd",
) -> Arguments:
    """Check everything that needs no computation, and the labels; return the arguments in final form."""
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("weight_layout", weight_layout, ("vd", "dv"))
    arguments = Arguments(
        hidden,
        weight,
        label,
        bias,
        check_integer("ignore_index", ignore_index),
        check_number("label_smoothing", label_smoothing, 0.0, 1.0),
        class_weight,
        token_weight,
        check_number("z_loss", z_loss, 0.0),
        check_number("softcap", softcap, 0.0),
        reduction,
        weight_layout,
    )
    num_classes = _check_tensors(arguments)
    if paddle.in_dynamic_mode():
        _check_labels(label, ignore_index, num_classes)
    return _convert(arguments)


def _check_tensors(a: Arguments) -> int:
    """Check dtypes and shapes; return the number of classes (-1 if a static program does not know it)."""
    check_tensor("hidden", a.hidden, _FLOATS)
    dtype = dtype_name(a.hidden)
    check_tensor("weight", a.weight, (dtype,))
    check_tensor("label", a.label, ("int64", "int32"))
    if a.hidden.ndim < 1 or a.hidden.shape[-1] == 0:
        raise InvalidInputError(
            f"hidden: expected shape [..., D] with D at least 1, got {list(a.hidden.shape)}"
        )
    size = a.hidden.shape[-1]
    if a.weight.ndim != 2 or 0 in a.weight.shape:
        raise InvalidInputError(
            f"weight: expected two dimensions, none of them 0, got {list(a.weight.shape)}"
        )
    if a.weight_layout == "vd":
        num_classes = a.weight.shape[0]
        check_shape("weight", a.weight, [num_classes, size], "[V, D], weight_layout='vd'")
    else:
        num_classes = a.weight.shape[1]
        check_shape("weight", a.weight, [size, num_classes], "[D, V], weight_layout='dv'")
    check_shape("label", a.label, a.hidden.shape[:-1], "hidden without its last axis")
    if a.bias is not None:
        check_tensor("bias", a.bias, (dtype,))
        check_shape("bias", a.bias, [num_classes], "[V]")
    if a.class_weight is not None:
        check_tensor("class_weight", a.class_weight, _FLOATS)
        check_shape("class_weight", a.class_weight, [num_classes], "[V]")
    if a.token_weight is not None:
        check_tensor("token_weight", a.token_weight, _FLOATS)
        check_shape("token_weight", a.token_weight, a.label.shape, "shape of label")
    return int(num_classes)


def _check_labels(label: paddle.Tensor, ignore_index: int, num_classes: int) -> None:
    values = label.numpy()
    is_bad = ((values < 0) | (values >= num_classes)) & (values != ignore_index)
    if is_bad.any():
        row = tuple(int(i) for i in np.argwhere(is_bad)[0])
        raise InvalidInputError(
            f"linear_cross_entropy: label{list(row)} is {values[row]}; "
            f"expected ignore_index ({ignore_index}) or a class in [0, {num_classes})"
        )


def _convert(a: Arguments) -> Arguments:
    dtype = "float64" if dtype_name(a.hidden) == "float64" else "float32"

    def constant(tensor: paddle.Tensor | None) -> paddle.Tensor | None:
        if tensor is None:
            return None
        return tensor.detach() if dtype_name(tensor) == dtype else tensor.detach().astype(dtype)

    return replace(
        a,
        label=a.label if dtype_name(a.label) == "int64" else a.label.astype("int64"),
        class_weight=constant(a.class_weight),
        token_weight=constant(a.token_weight),
    )
