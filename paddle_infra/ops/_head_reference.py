"""Losses of a linear layer in plain Paddle, with the logits in memory; cross entropy itself: reference.py."""

from __future__ import annotations

from typing import Any

import paddle

from paddle_infra._core.checks import dtype_name
from paddle_infra.ops import _linear_binary_cross_entropy_arguments, _linear_focal_arguments

_TINY = 1e-30  # stands for 0 where a power of 0 would have an infinite slope


def logits(a: Any) -> paddle.Tensor:
    """Compute the logits, at least in float32."""
    z = paddle.matmul(a.hidden, a.weight, transpose_y=a.weight_layout == "vd")
    if a.bias is not None:
        z = z + a.bias
    if dtype_name(z) in ("float16", "bfloat16"):
        z = z.astype("float32")
    return a.softcap * paddle.tanh(z / a.softcap) if a.softcap > 0.0 else z


def log_probabilities(z: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return the logarithms of the softmax, and of its denominator (with an axis of 1)."""
    # Not F.log_softmax: on the CPU it is some 200 times slower than these three steps. The maximum is a
    # constant here: log_prob does not depend on it, and exact shifts keep logits of 1e4 exact.
    top = z.detach().max(axis=-1, keepdim=True)
    shifted = z - top
    log_sum = paddle.logsumexp(shifted, axis=-1, keepdim=True)
    return shifted - log_sum, top + log_sum


def take_labels(a: Any, log_prob: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, Any]:
    """Return which rows count, the log probability of each label, and the class weight of each (or None)."""
    is_valid = a.label != a.ignore_index
    label = (a.label * is_valid.astype("int64")).unsqueeze(-1)
    target = paddle.take_along_axis(log_prob, label, axis=-1).squeeze(-1)
    return is_valid, target, None if a.class_weight is None else paddle.gather_nd(a.class_weight, label)


def reduce_rows(a: Any, loss: paddle.Tensor, is_valid: paddle.Tensor, own_weight: Any) -> paddle.Tensor:
    """Scale, mask and reduce the loss of each row."""
    scale = is_valid.astype(loss.dtype)
    if a.token_weight is not None:
        scale = scale * a.token_weight
    # where, not a product with 0: an ignored row may hold an infinite loss.
    loss = paddle.where(is_valid, loss, paddle.zeros([], loss.dtype)) * scale
    if a.reduction == "none":
        return loss
    if a.reduction == "sum":
        return _sum(loss)
    return _mean(_sum(loss), _sum(scale if own_weight is None else scale * own_weight))


def _sum(x: paddle.Tensor) -> paddle.Tensor:
    # paddle2onnx gives a sum of everything one axis too many.
    return x.sum().reshape([])


def _mean(total: paddle.Tensor, count: paddle.Tensor) -> paddle.Tensor:
    # Nothing to average: 0, with gradient 0, instead of 0 / 0.
    return total / paddle.where(count == 0.0, paddle.ones([], count.dtype), count)


def linear_focal(a: _linear_focal_arguments.Arguments) -> paddle.Tensor:
    """Compute the focal loss; see :func:`paddle_infra.ops.linear_focal`."""
    log_prob, _ = log_probabilities(logits(a))
    is_valid, target, own_weight = take_labels(a, log_prob)
    loss = -target if own_weight is None else -target * own_weight
    if a.gamma > 0.0:
        # 1 - p, exact for p near 1; -expm1(target) would be too, but has no form in ONNX.
        rest = paddle.clip(-paddle.tanh(0.5 * target) * (1.0 + paddle.exp(target)), min=_TINY)
        loss = loss * rest**a.gamma
    return reduce_rows(a, loss, is_valid, own_weight)


def linear_binary_cross_entropy(a: _linear_binary_cross_entropy_arguments.Arguments) -> paddle.Tensor:
    """Compute the multi-label loss; see :func:`paddle_infra.ops.linear_binary_cross_entropy`."""
    z = logits(a)
    positive = a.target if a.pos_weight is None else a.target * a.pos_weight
    log_sigmoid = paddle.nn.functional.log_sigmoid
    loss = -positive * log_sigmoid(z) - (1.0 - a.target) * log_sigmoid(-z)
    if a.token_weight is not None:
        loss = loss * a.token_weight.unsqueeze(-1)
    if a.reduction == "none":
        return loss
    total = _sum(loss)
    if a.reduction == "sum":
        return total
    # In a program neither rows nor classes need be known, so they are counted there.
    ones = paddle.ones_like(loss).detach()
    count = ones if a.token_weight is None else ones * a.token_weight.unsqueeze(-1)
    return _mean(total, _sum(count))
