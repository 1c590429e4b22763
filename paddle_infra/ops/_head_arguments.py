"""Checks and conversions that the losses of a linear layer share."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from paddle_infra._core.checks import check_shape, check_tensor, device_of, dtype_name
from paddle_infra._core.errors import InvalidInputError

FLOATS = ("float32", "float64", "float16", "bfloat16")


def check_layer(hidden: Any, weight: Any, bias: Any, weight_layout: str) -> int:
    """Check the linear layer; return the number of classes (-1 if a static program does not know it)."""
    check_tensor("hidden", hidden, FLOATS)
    dtype = dtype_name(hidden)
    check_tensor("weight", weight, (dtype,))
    if hidden.ndim < 1 or hidden.shape[-1] == 0:
        raise InvalidInputError(
            f"hidden: expected shape [..., D] with D at least 1, got {list(hidden.shape)}"
        )
    size = hidden.shape[-1]
    if weight.ndim != 2 or 0 in weight.shape:
        raise InvalidInputError(f"weight: expected two dimensions, none of them 0, got {list(weight.shape)}")
    if weight_layout == "vd":
        num_classes = weight.shape[0]
        check_shape("weight", weight, [num_classes, size], "[V, D], weight_layout='vd'")
    else:
        num_classes = weight.shape[1]
        check_shape("weight", weight, [size, num_classes], "[D, V], weight_layout='dv'")
    if bias is not None:
        check_tensor("bias", bias, (dtype,))
        check_shape("bias", bias, [num_classes], "[V]")
    return int(num_classes)


def check_weights(
    class_name: str, class_weight: Any, token_weight: Any, num_classes: int, label_shape: list[int]
) -> None:
    """Check the weights of classes (an argument of that name) and of rows."""
    if class_weight is not None:
        check_tensor(class_name, class_weight, FLOATS)
        check_shape(class_name, class_weight, [num_classes], "[V]")
    if token_weight is not None:
        check_tensor("token_weight", token_weight, FLOATS)
        check_shape("token_weight", token_weight, label_shape, "hidden without its last axis")


def check_labels(operator: str, hidden: Any, label: Any, ignore_index: int, num_classes: int) -> None:
    """Check dtype and shape of labels and, in dynamic mode, that each is ``ignore_index`` or a class."""
    check_tensor("label", label, ("int64", "int32"))
    check_shape("label", label, hidden.shape[:-1], "hidden without its last axis")
    if not paddle.in_dynamic_mode():
        return
    values = label.numpy()
    is_bad = ((values < 0) | (values >= num_classes)) & (values != ignore_index)
    if is_bad.any():
        row = tuple(int(i) for i in np.argwhere(is_bad)[0])
        raise InvalidInputError(
            f"{operator}: label{list(row)} is {values[row]}; "
            f"expected ignore_index ({ignore_index}) or a class in [0, {num_classes})"
        )


def constant(tensor: Any, hidden: Any) -> Any:
    """Return weights or targets in the dtype of the loss, cut off from gradients; None for None."""
    if tensor is None:
        return None
    dtype = "float64" if dtype_name(hidden) == "float64" else "float32"
    tensor = tensor.detach()
    return tensor if dtype_name(tensor) == dtype else tensor.astype(dtype)


def reference_refusals(a: Any) -> list[str]:
    """Say why plain Paddle cannot take these arguments."""
    dtype = dtype_name(a.hidden)
    if dtype in ("float16", "bfloat16") and device_of(a.hidden) == "cpu":
        return [f"Paddle has no {dtype} matrix product on the CPU: use float32"]
    return []
