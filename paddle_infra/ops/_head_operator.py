"""Calls the compiled losses of a linear layer, and says when they cannot be called."""

from __future__ import annotations

from typing import Any

import paddle

from paddle_infra._core import extension
from paddle_infra._core.checks import device_of, dtype_name
from paddle_infra.ops._precision import PRECISIONS, get_matmul_precision

REDUCTIONS = ("none", "sum", "mean")  # in the order of the compiled operator's attribute
KINDS = ("cross_entropy", "focal", "binary")  # likewise


def refusals(hidden: Any, has_gpu_kernel: bool) -> list[str]:
    """Say why the compiled operators cannot take this input."""
    status = extension.load()
    reasons = [] if status.is_loaded else [status.explain()]
    dtype = dtype_name(hidden)
    if dtype != "float32":
        reasons.append(f"the compiled kernel computes in float32, hidden is {dtype}")
    device = device_of(hidden)
    if device == "gpu" and has_gpu_kernel:
        if status.is_loaded and not status.build["cuda"]:
            reasons.append(
                "hidden is on a GPU, but the library was compiled without CUDA: rebuild it with nvcc and "
                "PADDLE_INFRA_CUDA=1"
            )
    elif device != "cpu":
        devices = "cpu and gpu" if has_gpu_kernel else "cpu"
        reasons.append(f"there are compiled kernels for {devices} only, hidden is on {device}")
    if not paddle.framework.in_dynamic_or_pir_mode():
        reasons.append(
            "compiled operators need dynamic mode or Paddle's PIR programs, this is a legacy static program"
        )
    return reasons


def reference_refusals(hidden: Any) -> list[str]:
    """Say why plain Paddle cannot take this input."""
    dtype = dtype_name(hidden)
    if dtype in ("float16", "bfloat16") and device_of(hidden) == "cpu":
        return [f"Paddle has no {dtype} matrix product on the CPU: use float32"]
    return []


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
    inputs = [hidden, weight] if bias is None else [hidden, weight, bias]
    # One loss has one number as its gradient: the forward pass can make the gradients at once, while the logits
    # are there, and the backward pass needs no product but with that number.
    is_eager = (
        reduction != "none"
        and device_of(hidden) == "cpu"
        and paddle.is_grad_enabled()
        and not all(tensor.stop_gradient for tensor in inputs)
    )
    operator = "paddle_infra_linear_cross_entropy" + ("" if bias is None else "_bias")
    return paddle._C_ops._run_custom_op(
        operator, *inputs, label, class_weight, token_weight, KINDS.index(kind), ignore_index, label_smoothing,
        z_loss, softcap, focal_gamma, REDUCTIONS.index(reduction), PRECISIONS.index(get_matmul_precision()),
        weight_layout == "dv", is_eager,
    )[0]  # fmt: skip
