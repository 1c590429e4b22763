"""Checks and converts the arguments of linear_binary_cross_entropy, for every implementation of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle

from paddle_infra._core.checks import check_choice, check_number, check_shape, check_tensor, dtype_name
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.ops._head_arguments import FLOATS, check_layer, check_weights, constant
from paddle_infra.ops._head_operator import LAYOUTS, REDUCTIONS


@dataclass(frozen=True)
class Arguments:
    """Checked arguments of linear_binary_cross_entropy; targets and weights have the dtype of the loss."""

    hidden: paddle.Tensor
    weight: paddle.Tensor
    target: paddle.Tensor
    bias: paddle.Tensor | None
    pos_weight: paddle.Tensor | None
    token_weight: paddle.Tensor | None
    softcap: float
    reduction: str
    weight_layout: str


def check(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    target: paddle.Tensor,
    *,
    bias: paddle.Tensor | None = None,
    pos_weight: paddle.Tensor | None = None,
    token_weight: paddle.Tensor | None = None,
    softcap: float = 0.0,
    reduction: str = "mean",
    weight_layout: str = "vd",
) -> Arguments:
    """Check everything that needs no computation, and the targets; return the arguments in final form."""
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("weight_layout", weight_layout, LAYOUTS)
    softcap = check_number("softcap", softcap, 0.0)
    num_classes = check_layer(hidden, weight, bias, weight_layout)
    check_tensor("target", target, (*FLOATS, "bool"))
    check_shape("target", target, [*hidden.shape[:-1], num_classes], "[..., V], as hidden but its last axis")
    check_weights("pos_weight", pos_weight, token_weight, num_classes, hidden.shape[:-1])
    checked = constant(target, hidden)
    if paddle.in_dynamic_mode() and dtype_name(target) != "bool":
        _check_targets(checked)
    return Arguments(
        hidden,
        weight,
        checked,
        bias,
        constant(pos_weight, hidden),
        constant(token_weight, hidden),
        softcap,
        reduction,
        weight_layout,
    )


def _check_targets(target: paddle.Tensor) -> None:
    values = target.numpy()
    is_good = (values >= 0) & (values <= 1)  # a NaN is not
    if not is_good.all():
        place = tuple(int(i) for i in np.argwhere(~is_good)[0])
        raise InvalidInputError(
            f"linear_binary_cross_entropy: target{list(place)} is {values[place]:g}; "
            "expected a number in [0, 1]"
        )
