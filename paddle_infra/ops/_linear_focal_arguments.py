"""Checks and converts the arguments of linear_focal, for every implementation of it."""

from __future__ import annotations

from dataclasses import dataclass

import paddle

from paddle_infra._core.checks import check_choice, check_integer, check_number, dtype_name
from paddle_infra.ops._head_arguments import check_labels, check_layer, check_weights, constant
from paddle_infra.ops._head_operator import LAYOUTS, REDUCTIONS


@dataclass(frozen=True)
class Arguments:
    """Checked arguments of linear_focal; class and token weights have the dtype of the loss."""

    hidden: paddle.Tensor
    weight: paddle.Tensor
    label: paddle.Tensor
    gamma: float
    bias: paddle.Tensor | None
    ignore_index: int
    class_weight: paddle.Tensor | None
    token_weight: paddle.Tensor | None
    softcap: float
    reduction: str
    weight_layout: str


def check(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    label: paddle.Tensor,
    *,
    gamma: float = 2.0,
    bias: paddle.Tensor | None = None,
    ignore_index: int = -100,
    class_weight: paddle.Tensor | None = None,
    token_weight: paddle.Tensor | None = None,
    softcap: float = 0.0,
    reduction: str = "mean",
    weight_layout: str = "vd",
) -> Arguments:
    """Check everything that needs no computation, and the labels; return the arguments in final form."""
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("weight_layout", weight_layout, LAYOUTS)
    check_integer("ignore_index", ignore_index)
    gamma = check_number("gamma", gamma, 0.0)
    softcap = check_number("softcap", softcap, 0.0)
    num_classes = check_layer(hidden, weight, bias, weight_layout)
    check_labels("linear_focal", hidden, label, ignore_index, num_classes)
    check_weights("class_weight", class_weight, token_weight, num_classes, hidden.shape[:-1])
    return Arguments(
        hidden,
        weight,
        label if dtype_name(label) == "int64" else label.astype("int64"),
        gamma,
        bias,
        ignore_index,
        constant(class_weight, hidden),
        constant(token_weight, hidden),
        softcap,
        reduction,
        weight_layout,
    )
