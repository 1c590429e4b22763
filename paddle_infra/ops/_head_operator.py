"""Calls the compiled losses of a linear layer, and says when compiled heads cannot be called."""

from __future__ import annotations

import math
from typing import Any

import paddle

from paddle_infra._core import extension
from paddle_infra._core.checks import device_of, dtype_name
from paddle_infra._core.matmul_precision import PRECISIONS, get_matmul_precision
from paddle_infra.ops import _select

REDUCTIONS = ("none", "sum", "mean")  # in the order of the compiled operator's attribute
LAYOUTS = ("vd", "dv")
KINDS = ("cross_entropy", "focal", "binary")  # likewise
_GPU_DTYPES = ("float32", "float16", "bfloat16")


def refusals(hidden: Any, has_gpu_kernel: bool) -> list[str]:
    """Say why the compiled operators cannot take this input."""
    status = extension.load()
    reasons = [] if status.is_loaded else [status.explain()]
    dtype, device = dtype_name(hidden), device_of(hidden)
    if device == "gpu" and has_gpu_kernel:
        if dtype not in _GPU_DTYPES:
            reasons.append(f"the compiled kernel for GPUs takes {', '.join(_GPU_DTYPES)}, hidden is {dtype}")
        if status.is_loaded and not status.build["cuda"]:
            reasons.append(extension.WITHOUT_CUDA.format("hidden"))
    else:
        if dtype != "float32":
            reasons.append(f"the compiled kernel computes in float32, hidden is {dtype}")
        if device != "cpu":
            devices = "cpu and gpu" if has_gpu_kernel else "cpu"
            reasons.append(f"there are compiled kernels for {devices} only, hidden is on {device}")
    if not paddle.framework.in_dynamic_or_pir_mode():
        reasons.append(
            "compiled operators need dynamic mode or Paddle's PIR programs, this is a legacy static program"
        )
    return reasons


def float32_bias(bias: Any) -> Any:
    """Return the bias as compiled heads take it, whatever hidden is: in float32. Its gradient is converted back."""
    return bias if bias is None or dtype_name(bias) == "float32" else bias.astype("float32")


def run(
    kind: str,
    hidden: Any,
    weight: Any,
    bias: Any,
    label: Any,
    class_weight: Any,
    token_weight: Any,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    focal_gamma: float = 0.0,
    reduction: str,
    weight_layout: str,
) -> paddle.Tensor:
    """Compute a loss; see csrc/linear_cross_entropy/linear_cross_entropy.h."""
    is_recorded, is_program = paddle.is_grad_enabled(), not paddle.in_dynamic_mode()
    # What needs no gradient gets none computed. A program may be run with other inputs than it was captured with,
    # so there all may need one.
    wants_hidden = is_program or (is_recorded and not hidden.stop_gradient)
    wants_weight = is_program or (is_recorded and not weight.stop_gradient)
    # One loss has one number as its gradient: the forward pass can make the gradients at once, while the logits
    # are there, and the backward pass needs no product but with that number.
    is_eager = (
        is_recorded
        and reduction != "none"
        and device_of(hidden) == "cpu"
        and not (hidden.stop_gradient and weight.stop_gradient and (bias is None or bias.stop_gradient))
    )
    numbers = (
        KINDS.index(kind), ignore_index, label_smoothing, z_loss, softcap, focal_gamma, REDUCTIONS.index(reduction),
        PRECISIONS.index(get_matmul_precision()), weight_layout == "dv", is_eager, wants_hidden, wants_weight,
    )  # fmt: skip
    name, bias_input = "paddle_infra_linear_cross_entropy", () if bias is None else (bias,)
    loss = paddle._C_ops._run_custom_op(
        name if bias is None else name + "_bias",
        hidden, weight, *bias_input, label, class_weight, token_weight, *numbers,
    )[0]  # fmt: skip
    # Paddle records custom operators under no_grad too: the graph would keep all inputs, and lead to gradients that
    # nobody computed.
    return loss if is_recorded or is_program else loss.detach()


def run_unchecked(
    kind: str,
    hidden: Any,
    weight: Any,
    bias: Any,
    label: Any,
    class_weight: Any,
    token_weight: Any,
    impl: str,
    **options: Any,
) -> paddle.Tensor | None:
    """Call the compiled operator at once if nothing needs converting; return None for the long way.

    It checks tensors, labels and targets itself; for small heads, checking here too would take longer than the loss.
    What it refuses goes the long way, which finds the error again and names it better.
    """
    tensor = paddle.Tensor
    is_usual = (
        isinstance(hidden, tensor)
        and isinstance(weight, tensor)
        and isinstance(label, tensor)
        and (bias is None or isinstance(bias, tensor))
        and _is_constant(class_weight)
        and _is_constant(token_weight)
        and paddle.in_dynamic_mode()
        and _select.may_run("fused", impl)
        and hidden.dtype is paddle.float32
        and hidden.place.is_cpu_place()
        and _are_usual(**options)
        and extension.load().is_loaded
    )
    if not is_usual:
        return None
    try:
        return run(kind, hidden, weight, bias, label, class_weight, token_weight, **options)
    except (ValueError, TypeError):
        return None


def _is_constant(weights: Any) -> bool:
    """Whether these can be weights of the operator as they are, which does not expect that they want a gradient."""
    return weights is None or (isinstance(weights, paddle.Tensor) and weights.stop_gradient)


def _are_usual(
    *,
    reduction: Any,
    weight_layout: Any,
    ignore_index: Any = -100,
    softcap: Any,
    label_smoothing: Any = 0.0,
    z_loss: Any = 0.0,
    focal_gamma: Any = 0.0,
) -> bool:
    """Whether options are what the operator may be given: it does not check their ranges."""
    return (
        type(ignore_index) is int
        and type(softcap) is type(label_smoothing) is type(z_loss) is type(focal_gamma) is float
        and 0.0 <= label_smoothing <= 1.0
        and 0.0 <= softcap < math.inf
        and 0.0 <= z_loss < math.inf
        and 0.0 <= focal_gamma < math.inf
        and reduction in REDUCTIONS
        and weight_layout in LAYOUTS
    )
