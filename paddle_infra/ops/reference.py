"""Operators in plain Paddle: the fallback, the exported form, the oracle of tests. Attention: _attention_reference."""

from __future__ import annotations

import math
from typing import Any

import paddle
import paddle.nn.functional as F

from paddle_infra._core.checks import dtype_name
from paddle_infra.ops import _linear_int8_arguments, _linear_topk_arguments
from paddle_infra.ops._linear_cross_entropy_arguments import Arguments


def _logits(a: Any) -> paddle.Tensor:
    logits = paddle.matmul(a.hidden, a.weight, transpose_y=a.weight_layout == "vd")
    if a.bias is not None:
        logits = logits + a.bias
    if dtype_name(logits) in ("float16", "bfloat16"):
        logits = logits.astype("float32")
    return a.softcap * paddle.tanh(logits / a.softcap) if a.softcap > 0.0 else logits


def linear_binary_cross_entropy(a: Any) -> paddle.Tensor:
    """Compute the loss with the logits in memory; see :func:`paddle_infra.ops.linear_binary_cross_entropy`."""
    logits = _logits(a)
    positive = a.target if a.pos_weight is None else a.target * a.pos_weight
    loss = -positive * F.log_sigmoid(logits) - (1.0 - a.target) * F.log_sigmoid(-logits)
    if a.token_weight is not None:
        loss = loss * a.token_weight.unsqueeze(-1)
    if a.reduction == "none":
        return loss
    if a.reduction == "sum":
        return loss.sum()
    rows = paddle.ones_like(loss[..., 0]) if a.token_weight is None else a.token_weight
    return _divide(loss.sum(), rows.sum() * float(logits.shape[-1]))


def _divide(total: paddle.Tensor, by: paddle.Tensor) -> paddle.Tensor:
    """Nothing to average is 0, with gradient 0, instead of 0 / 0."""
    return total / paddle.where(by == 0.0, paddle.ones([], by.dtype), by)


def linear_cross_entropy(a: Arguments, focal_gamma: float = 0.0) -> paddle.Tensor:
    """Compute the loss with the logits in memory; see :func:`paddle_infra.ops.linear_cross_entropy`.

    With ``focal_gamma`` it is that of :func:`paddle_infra.ops.linear_focal`.
    """
    logits = _logits(a)
    # Not F.log_softmax: on the CPU it is some 200 times slower than these three steps. The maximum is a
    # constant here: log_prob does not depend on it, and exact shifts keep logits of 1e4 exact.
    top = logits.detach().max(axis=-1, keepdim=True)
    shifted = logits - top
    log_sum = paddle.logsumexp(shifted, axis=-1, keepdim=True)
    log_prob = shifted - log_sum

    is_valid = a.label != a.ignore_index
    label = a.label * is_valid.astype("int64")
    target = paddle.take_along_axis(log_prob, label.unsqueeze(-1), axis=-1).squeeze(-1)
    own_weight = None if a.class_weight is None else paddle.gather_nd(a.class_weight, label.unsqueeze(-1))
    loss = -target if own_weight is None else -target * own_weight
    if focal_gamma > 0.0:
        # Clipped: near a probability of 1 the power's slope would be infinite.
        loss = loss * (-paddle.expm1(target)).clip(min=1e-30) ** focal_gamma
    if a.label_smoothing > 0.0:
        weighted = log_prob if a.class_weight is None else log_prob * a.class_weight
        # The mean over classes is epsilon / C times the sum.
        loss = (1.0 - a.label_smoothing) * loss - a.label_smoothing * weighted.mean(axis=-1)
    if a.z_loss > 0.0:
        loss = loss + a.z_loss * (top + log_sum).squeeze(-1).square()

    scale = is_valid.astype(loss.dtype)
    if a.token_weight is not None:
        scale = scale * a.token_weight
    # where, not a product with 0: an ignored row may hold an infinite loss.
    loss = paddle.where(is_valid, loss, paddle.zeros([], loss.dtype)) * scale
    if a.reduction == "none":
        return loss
    if a.reduction == "sum":
        return loss.sum()
    total = (scale if own_weight is None else scale * own_weight).sum()
    return _divide(loss.sum(), total)


def linear_topk(a: _linear_topk_arguments.Arguments) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Find the k most probable classes with the logits in memory; see :func:`paddle_infra.ops.linear_topk`."""
    logits = paddle.matmul(a.hidden, a.weight, transpose_y=a.weight_layout == "vd")
    if a.bias is not None:
        logits = logits + a.bias
    if dtype_name(logits) in ("float16", "bfloat16"):
        logits = logits.astype("float32")
    if a.softcap > 0.0:
        logits = a.softcap * paddle.tanh(logits / a.softcap)
    index = _largest(logits, a.k)
    top = logits.max(axis=-1, keepdim=True)
    log_sum = paddle.log(paddle.exp(logits - top).sum(axis=-1, keepdim=True))
    log_prob = paddle.take_along_axis(logits, index, axis=-1) - top - log_sum
    first = paddle.zeros_like(index) + paddle.arange(a.k)
    index = paddle.where(paddle.isnan(log_sum), first, index)
    return (log_prob if a.is_log else paddle.exp(log_prob)), index


def _largest(logits: paddle.Tensor, k: int) -> paddle.Tensor:
    """Return the classes of the k largest, equal ones by class: Paddle's topk chooses and orders those anyhow."""
    values, index = paddle.topk(logits, k)
    last = values[..., -1:]
    # Of the classes that equal the last one, the first.
    num_classes = logits.shape[-1]
    order = num_classes - paddle.arange(num_classes, dtype="int32")
    tied = paddle.topk(paddle.where(logits == last, order, paddle.zeros_like(order)), k)[1]
    above = (values > last).astype("int64")
    place = paddle.clip(paddle.arange(k) - above.sum(axis=-1, keepdim=True), min=0)
    index = paddle.where(above == 1, index, paddle.take_along_axis(tied, place, axis=-1))
    index = paddle.sort(index, axis=-1)
    found = paddle.take_along_axis(logits, index, axis=-1)
    return paddle.take_along_axis(index, paddle.argsort(found, descending=True, stable=True), axis=-1)


def linear_int8(a: _linear_int8_arguments.Arguments) -> paddle.Tensor:
    """Multiply int8 numbers as float64 ones, which is exact; see :func:`paddle_infra.ops.linear_int8`."""
    top = a.x.abs().max(axis=-1, keepdim=True)
    is_zero = (top < _linear_int8_arguments.ZERO).astype("float32")
    safe = top + is_zero
    largest = paddle.full([1], 127.0)  # a number over a tensor would be an operator that paddle2onnx lacks
    codes = paddle.round(a.x * (largest / safe * (1.0 - is_zero)))
    sums = paddle.matmul(codes.astype("float64"), a.weight.astype("float64")).astype("float32")
    y = sums * a.weight_scale * (safe / 127.0)
    return _activated(y if a.bias is None else y + a.bias, a.activation)


def _activated(y: paddle.Tensor, activation: str) -> paddle.Tensor:
    if activation == "gelu":
        return paddle.nn.functional.gelu(y)
    if activation == "gelu_tanh":  # in full: paddle2onnx exports Paddle's own as if it were the exact GELU
        return 0.5 * y * (1.0 + paddle.tanh((2.0 / math.pi) ** 0.5 * (y + 0.044715 * y * y * y)))
    if activation == "relu":
        return paddle.where(y < 0.0, paddle.zeros_like(y), y)  # Paddle's own makes 0 of a NaN
    if activation == "silu":
        return paddle.nn.functional.silu(y)
    return y
