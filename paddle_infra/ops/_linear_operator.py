"""Calls the compiled linear layer, and says when it cannot be called."""

from __future__ import annotations

from typing import Any

import paddle

from paddle_infra._core import extension
from paddle_infra._core.checks import check_tensor, device_of, dtype_name
from paddle_infra._core.matmul_precision import PRECISIONS, get_matmul_precision
from paddle_infra.ops import _select
from paddle_infra.ops._gradient import recorded_if_wanted
from paddle_infra.ops._linear_arguments import ACTIVATIONS, Arguments

_NUMBER_OF = {name: number for number, name in enumerate(ACTIVATIONS)}


def refusals(a: Arguments) -> list[str]:
    """Say why the compiled operator cannot take these arguments."""
    status = extension.load()
    reasons = [] if status.is_loaded else [status.explain()]
    dtype = dtype_name(a.x)
    if dtype != "float32":
        reasons.append(f"the compiled kernel takes float32, x is {dtype}")
    device = device_of(a.x)
    if device != "cpu":
        reasons.append(f"there is a compiled kernel for cpu only so far, x is on {device}")
    if not paddle.framework.in_dynamic_or_pir_mode():
        reasons.append(
            "compiled operators need dynamic mode or Paddle's PIR programs, this is a legacy static program"
        )
    return reasons


def run(a: Arguments) -> paddle.Tensor:
    """Compute the layer."""
    return _call(a.x, a.weight, a.bias, _NUMBER_OF[a.activation], a.packed_weight)


def run_unchecked(
    x: Any, weight: Any, bias: Any, activation: Any, packed_weight: Any, impl: str
) -> paddle.Tensor | None:
    """Call the compiled operator at once, as it checks its tensors itself; return None for the long way.

    What it refuses goes the long way, which finds the error again and names it better.
    """
    number = _NUMBER_OF.get(activation) if type(activation) is str else None
    is_usual = (
        number is not None
        and isinstance(x, paddle.Tensor)
        and isinstance(weight, paddle.Tensor)
        and (bias is None or isinstance(bias, paddle.Tensor))
        and paddle.in_dynamic_mode()
        and _select.may_run("fused", impl)
        and x.dtype is paddle.float32
        and (packed_weight is None or get_matmul_precision() == "medium")  # else nobody would look at it
        and extension.load().is_loaded
    )
    if not is_usual:
        return None
    try:
        return _call(x, weight, bias, number, packed_weight)
    except (ValueError, TypeError):
        return None


def pack(weight: Any) -> paddle.Tensor:
    """Round a weight to bfloat16."""
    check_tensor("weight", weight, ("float32",))
    extension.require()
    return paddle._C_ops._run_custom_op("paddle_infra_round_to_bf16", weight)[0]


def _call(x: Any, weight: Any, bias: Any, activation: int | None, packed_weight: Any) -> paddle.Tensor:
    precision = PRECISIONS.index(get_matmul_precision())
    # What needs no gradient is not kept for one, and not computed. A program may be run with other inputs than it
    # was captured with, so there all may need one.
    is_recorded, is_program = paddle.is_grad_enabled(), not paddle.in_dynamic_mode()
    wants_x = is_recorded and (is_program or not x.stop_gradient)
    wants_weight = is_recorded and (is_program or not weight.stop_gradient)
    wants_any = wants_x or wants_weight or (is_recorded and bias is not None and not bias.stop_gradient)
    numbers = (activation, precision, wants_any and activation != 0, wants_x, wants_weight)
    packed = packed_weight if precision == 1 else None
    if bias is None:
        results = paddle._C_ops._run_custom_op("paddle_infra_linear", x, weight, packed, *numbers)
    else:
        results = paddle._C_ops._run_custom_op("paddle_infra_linear_bias", x, weight, bias, packed, *numbers)
    return recorded_if_wanted(results)[0]
