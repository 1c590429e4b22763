"""Checks and converts the arguments of linear_cross_entropy, for every implementation of it."""

from __future__ import annotations

from dataclasses import dataclass

import paddle

from paddle_infra._core.checks import check_choice, check_integer, check_number, dtype_name
from paddle_infra.ops._head_arguments import check_labels, check_layer, check_weights, constant
from paddle_infra.ops._head_operator import LAYOUTS, REDUCTIONS


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
    check_choice("weight_layout", weight_layout, LAYOUTS)
    check_integer("ignore_index", ignore_index)
    label_smoothing = check_number("label_smoothing", label_smoothing, 0.0, 1.0)
    z_loss = check_number("z_loss", z_loss, 0.0)
    softcap = check_number("softcap", softcap, 0.0)
    num_classes = check_layer(hidden, weight, bias, weight_layout)
    check_labels("linear_cross_entropy", hidden, label, ignore_index, num_classes)
    check_weights("class_weight", class_weight, token_weight, num_classes, hidden.shape[:-1])
    return Arguments(
        hidden,
        weight,
        label if dtype_name(label) == "int64" else label.astype("int64"),
        bias,
        ignore_index,
        label_smoothing,
        constant(class_weight, hidden),
        constant(token_weight, hidden),
        z_loss,
        softcap,
        reduction,
        weight_layout,
    )
