"""Operators in plain Paddle: the fallback, the exported form, the oracle of tests.

Attention, focal and binary losses: _attention_reference.py, _head_reference.py.
"""

from __future__ import annotations

import math

import paddle

from paddle_infra.ops import _linear_int8_arguments, _linear_topk_arguments
from paddle_infra.ops._head_reference import log_probabilities, logits, reduce_rows, take_labels
from paddle_infra.ops._linear_cross_entropy_arguments import Arguments


def linear_cross_entropy(a: Arguments) -> paddle.Tensor:
    """Compute the loss with the logits in memory; see :func:`paddle_infra.ops.linear_cross_entropy`."""
    log_prob, log_sum = log_probabilities(logits(a))
    is_valid, target, own_weight = take_labels(a, log_prob)
    loss = -target if own_weight is None else -target * own_weight
    if a.label_smoothing > 0.0:
        weighted = log_prob if a.class_weight is None else log_prob * a.class_weight
        # The mean over classes is epsilon / C times the sum.
        loss = (1.0 - a.label_smoothing) * loss - a.label_smoothing * weighted.mean(axis=-1)
    if a.z_loss > 0.0:
        loss = loss + a.z_loss * log_sum.squeeze(-1).square()
    return reduce_rows(a, loss, is_valid, own_weight)


def linear_topk(a: _linear_topk_arguments.Arguments) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Find the k most probable classes with the logits in memory; see :func:`paddle_infra.ops.linear_topk`."""
    z = logits(a)
    index = _largest(z, a.k)
    top = z.max(axis=-1, keepdim=True)
    log_sum = paddle.log(paddle.exp(z - top).sum(axis=-1, keepdim=True))
    log_prob = paddle.take_along_axis(z, index, axis=-1) - top - log_sum
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
