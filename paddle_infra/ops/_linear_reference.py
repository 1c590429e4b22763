"""The linear layer in plain Paddle: the fallback, the form that is exported, and an oracle of the tests."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from paddle_infra._core.checks import device_of, dtype_name
from paddle_infra.ops._linear_arguments import Arguments


def refusals(a: Arguments) -> list[str]:
    """Say why plain Paddle cannot take these arguments."""
    dtype = dtype_name(a.x)
    if dtype in ("float16", "bfloat16") and device_of(a.x) == "cpu":
        return [f"Paddle has no {dtype} matrix product on the CPU: use float32"]
    return []


def linear(a: Arguments) -> paddle.Tensor:
    """Compute it; see :func:`paddle_infra.ops.linear`."""
    return activate(F.linear(a.x, a.weight, a.bias), a.activation)


def activate(z: paddle.Tensor, activation: str) -> paddle.Tensor:
    """Apply an activation by name."""
    if activation == "gelu":
        return F.gelu(z)
    if activation == "gelu_tanh":
        # Not F.gelu(z, approximate=True): paddle2onnx would make the exact form of it.
        return 0.5 * z * (1.0 + paddle.tanh(0.7978845608028654 * (z + 0.044715 * z * z * z)))
    if activation == "relu":
        return F.relu(z)
    if activation == "silu":
        return _silu(z)
    if activation == "swiglu":
        gate, up = paddle.split(z, 2, axis=-1)
        return _silu(gate) * up
    return z


def _silu(z: paddle.Tensor) -> paddle.Tensor:
    # Not F.silu: its gradient is NaN below -88.7 (Paddle 3.3.1, on the CPU).
    return z * F.sigmoid(z)
