"""Operators in plain Paddle: the fallback, the exported form, the oracle of tests. Attention: _attention_reference."""

from __future__ import annotations

import paddle

from paddle_infra._core.checks import dtype_name
from paddle_infra.ops._linear_cross_entropy_arguments import Arguments


def linear_cross_entropy(a: Arguments) -> paddle.Tensor:
    """Compute the loss with the logits in memory; see :func:`paddle_infra.ops.linear_cross_entropy`."""
    logits = paddle.matmul(a.hidden, a.weight, transpose_y=a.weight_layout == "vd")
    if a.bias is not None:
        logits = logits + a.bias
    if dtype_name(logits) in ("float16", "bfloat16"):
        logits = logits.astype("float32")
    if a.softcap > 0.0:
        logits = a.softcap * paddle.tanh(logits / a.softcap)
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
    # Nothing to average: 0, with gradient 0, instead of 0 / 0.
    return loss.sum() / paddle.where(total == 0.0, paddle.ones([], total.dtype), total)
