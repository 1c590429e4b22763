"""Normalization in plain Paddle: what the references of operators that normalize rows are made of."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F

from paddle_infra._core.checks import UNKNOWN
from paddle_infra.ops._dropout import draw_seed, keep_mask

_MOST_EPSILON = 1e-3


def normalize(
    x: paddle.Tensor, weight: paddle.Tensor | None, bias: paddle.Tensor | None, is_rms: bool, epsilon: float
) -> paddle.Tensor:
    """Compute layer norm or RMS norm over the last axis."""
    if is_rms or len(x.shape) < 2 or epsilon > _MOST_EPSILON:  # Paddle's layer_norm refuses the latter two
        centered = x if is_rms else x - x.mean(axis=-1, keepdim=True)
        out = centered * paddle.rsqrt((centered * centered).mean(axis=-1, keepdim=True) + epsilon)
    elif weight is None or weight.stop_gradient:
        # Of a weight without a gradient, Paddle's layer_norm forgets the weight in the gradient of x (3.3.1, CPU).
        out = F.layer_norm(x, x.shape[-1:], None, None, epsilon)
    else:
        return F.layer_norm(x, x.shape[-1:], weight, bias, epsilon)
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


def drop(x: paddle.Tensor, dropout_p: float) -> paddle.Tensor:
    """Drop numbers of [..., D]: the same as the compiled operators for the same state of Paddle's generator."""
    if dropout_p == 0.0:
        return x
    rows = x.reshape([-1, _size(x, -1)])
    row = paddle.arange(_size(rows, 0), dtype="int64").unsqueeze(-1)
    column = paddle.arange(_size(x, -1), dtype="int64")
    kept = keep_mask(draw_seed(), paddle.zeros([1], "int64"), row, column, dropout_p)
    factor = kept.astype(x.dtype) / (1.0 - dropout_p)
    return x * factor.reshape(paddle.shape(x) if UNKNOWN in x.shape else x.shape)


def _size(x: paddle.Tensor, axis: int) -> Any:
    """Return a size: a number, or a tensor where a static program does not know it."""
    size = x.shape[axis]
    return paddle.shape(x)[axis].astype("int64") if size == UNKNOWN else size
