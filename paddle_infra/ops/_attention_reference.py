"""Attention in plain Paddle: the fallback, the form that is exported, and the oracle of the tests."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import paddle
import paddle.nn.functional as F

from paddle_infra._core.checks import UNKNOWN, dtype_name
from paddle_infra.ops._attention_arguments import Arguments
from paddle_infra.ops._dropout import draw_seed, keep_mask

# What is added to hidden scores, so that nothing is infinite; and scores up to here count as hidden.
_HIDDEN, _LOWEST_MAX = -1e30, -1e29


def refusals(a: Arguments) -> list[str]:
    """Say why plain Paddle cannot take these arguments."""
    if UNKNOWN in (*a.query.shape[-2:], *a.key.shape[-2:]):
        return ["plain Paddle needs a program that knows num_heads and head_dim"]
    return []


def attention(a: Arguments) -> tuple[paddle.Tensor]:
    """Compute attention with all scores in memory."""
    return (_compute(a, with_lse=False)[0],)


def attention_with_lse(a: Arguments) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Compute attention: the output, and the logarithm of the sum of exponentials."""
    out, lse = _compute(a, with_lse=True)
    return out, lse


def _compute(a: Arguments, with_lse: bool) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    dtype_of_result = a.query.dtype
    a = _widen(a)
    if a.key.shape[1] == 0:
        a = _with_a_hidden_key(a)
    groups = a.query.shape[2] // a.key.shape[2]
    query, key, value = (x.transpose([0, 2, 1, 3]) for x in (a.query, a.key, a.value))
    if a.kv_lengths is not None:
        key, value = (_without_padding(x, a.kv_lengths) for x in (key, value))
    if a.q_lengths is not None:
        query = _without_padding(query, a.q_lengths)
    key, value = (_repeat_heads(x, groups) for x in (key, value))

    scores = paddle.matmul(query * a.scale, key, transpose_y=True)
    if a.softcap > 0.0:
        scores = a.softcap * paddle.tanh(scores / a.softcap)
    scores = _add_options(scores, a)
    weights = F.softmax(scores, axis=-1)
    if a.dropout_p > 0.0:
        weights = _drop(weights, a.dropout_p)
    out, lse = paddle.matmul(weights, value), None
    # Where everything is hidden: 0, with gradient 0. A NaN hides nothing.
    is_hidden = scores.detach().max(axis=-1, keepdim=True) <= _LOWEST_MAX if _may_hide(a) else None
    if is_hidden is not None:
        out = out * (1.0 - is_hidden.astype(out.dtype))
    if with_lse:
        lse = paddle.logsumexp(scores, axis=-1)
        if is_hidden is not None:
            lse = paddle.where(is_hidden.squeeze(-1), paddle.full([], -math.inf, lse.dtype), lse)
    if a.q_lengths is not None:
        out = _without_padding(out, a.q_lengths)  # and whatever the gradient of padding is
    return out.transpose([0, 2, 1, 3]).astype(dtype_of_result), lse


def attention_varlen(a: Arguments) -> tuple[paddle.Tensor]:
    """Compute attention on packed sequences: as a padded batch."""
    dtype_of_result = a.query.dtype
    a = _widen(a)
    starts_q, starts_k = (paddle.cast(x, "int64") for x in (a.cu_seqlens_q, a.cu_seqlens_k))
    q_lengths, kv_lengths = (x[1:] - x[:-1] for x in (starts_q, starts_k))
    padded = replace(
        a,
        query=_pad(a.query, starts_q, q_lengths, a.max_seqlen_q),
        key=_pad(a.key, starts_k, kv_lengths, a.max_seqlen_k),
        value=_pad(a.value, starts_k, kv_lengths, a.max_seqlen_k),
        q_lengths=q_lengths,
        kv_lengths=kv_lengths,
        align_to_lengths=True,
    )
    token = paddle.arange(_size(a.query, 0), dtype="int64")
    sequence = (starts_q[1:] <= token.unsqueeze(-1)).astype("int64").sum(axis=-1)
    place = token - paddle.gather(starts_q, sequence)
    out = paddle.gather_nd(_compute(padded, with_lse=False)[0], paddle.stack([sequence, place], axis=-1))
    return (out.astype(dtype_of_result),)


def _widen(a: Arguments) -> Arguments:
    """Make float16 and bfloat16 float32: scores need it, and on the CPU Paddle cannot multiply them."""
    if dtype_name(a.query) in ("float32", "float64"):
        return a
    query, key, value = (x.astype("float32") for x in (a.query, a.key, a.value))
    return replace(a, query=query, key=key, value=value)


def _size(x: paddle.Tensor, axis: int) -> Any:
    """Return a size: a number, or a tensor where a static program does not know it."""
    size = x.shape[axis]
    return paddle.shape(x)[axis].astype("int64") if size == UNKNOWN else size


def _without_padding(x: paddle.Tensor, lengths: paddle.Tensor) -> paddle.Tensor:
    """Make rows of [batch, head, sequence, head_dim] from the length on 0: they may hold anything, even NaN."""
    exists = paddle.arange(_size(x, 2), dtype="int64") < lengths.astype("int64").unsqueeze(-1)
    return paddle.where(exists.unsqueeze([1, 3]), x, paddle.zeros([], x.dtype))


def _repeat_heads(x: paddle.Tensor, groups: int) -> paddle.Tensor:
    """Repeat each head of [batch, head, sequence, head_dim] for the queries' heads that share it."""
    return x if groups == 1 else paddle.tile(x.unsqueeze(2), [1, 1, groups, 1, 1]).flatten(1, 2)


def _add_options(scores: paddle.Tensor, a: Arguments) -> paddle.Tensor:
    """Add bias and slopes to the scores, and hide what window, lengths and mask hide."""
    left, right = a.window
    keys = paddle.arange(_size(scores, 3), dtype="int64")
    queries = paddle.arange(_size(scores, 2), dtype="int64").unsqueeze(-1)
    visible = []
    if a.kv_lengths is not None:
        visible.append(keys < a.kv_lengths.astype("int64").reshape([-1, 1, 1, 1]))
    if a.q_lengths is not None:
        visible.append(queries < a.q_lengths.astype("int64").reshape([-1, 1, 1, 1]))
    if left >= 0 or right >= 0 or a.alibi_slopes is not None:
        behind = queries + _offset(a, scores) - keys  # how far a key is before its query
        if left >= 0:
            visible.append(behind <= left)
        if right >= 0:
            visible.append(behind >= -right)
        if a.alibi_slopes is not None:
            slopes = a.alibi_slopes.astype(scores.dtype).unsqueeze(-1).unsqueeze(-1)
            scores = scores - slopes * paddle.abs(behind).astype(scores.dtype)
    if a.bias is not None:
        if a.bias.dtype == paddle.bool:
            visible.append(a.bias)
        else:
            scores = (scores + a.bias).clip(min=_HIDDEN)  # also what a bias of -inf hides
    if not visible:
        return scores
    all_visible = visible[0]
    for condition in visible[1:]:
        all_visible = paddle.logical_and(all_visible, condition)
    return scores + _HIDDEN * (1.0 - all_visible.astype(scores.dtype))


def _may_hide(a: Arguments) -> bool:
    return max(a.window) >= 0 or any(x is not None for x in (a.bias, a.kv_lengths, a.q_lengths))


def _offset(a: Arguments, scores: paddle.Tensor) -> Any:
    """Return how much the number of a query's key is higher than the query's: a number, or one per batch entry."""
    keys, queries = _size(scores, 3), _size(scores, 2)
    if a.align_to_lengths and a.kv_lengths is not None:
        keys = a.kv_lengths.astype("int64").reshape([-1, 1, 1, 1])
    if a.align_to_lengths and a.q_lengths is not None:
        queries = a.q_lengths.astype("int64").reshape([-1, 1, 1, 1])
    return keys - queries


def _drop(weights: paddle.Tensor, dropout_p: float) -> paddle.Tensor:
    batch, heads, queries, keys = (paddle.arange(_size(weights, axis), dtype="int64") for axis in range(4))
    head = (batch.unsqueeze(-1) * _size(weights, 1) + heads).unsqueeze(-1).unsqueeze(-1)
    kept = keep_mask(draw_seed(), head, queries.unsqueeze(-1), keys, dropout_p)
    return weights * (kept.astype(weights.dtype) / (1.0 - dropout_p))


def _with_a_hidden_key(a: Arguments) -> Arguments:
    """Make no keys one key that nobody sees: Paddle has no maximum of nothing."""
    batch, _, heads, head_dim = a.key.shape
    one = paddle.zeros([batch, 1, heads, head_dim], a.key.dtype)
    bias = a.bias
    if bias is not None and bias.shape[3] == 0:
        bias = paddle.concat([bias, paddle.zeros([*bias.shape[:3], 1], bias.dtype)], axis=3)
    return replace(
        a,
        key=paddle.concat([a.key, one], axis=1),
        value=paddle.concat([a.value, one], axis=1),
        bias=bias,
        kv_lengths=paddle.zeros([batch], "int32"),
    )


def _pad(x: paddle.Tensor, starts: paddle.Tensor, lengths: paddle.Tensor, longest: int) -> paddle.Tensor:
    """From [tokens, head, head_dim] to [batch, longest, head, head_dim], zeros behind the end of each sequence."""
    # A program that was not told the longest length asks the data.
    most = longest if longest > 0 or paddle.in_dynamic_mode() else lengths.max()
    row = paddle.arange(most, dtype="int64")
    index = paddle.where(row < lengths.unsqueeze(-1), starts[:-1].unsqueeze(-1) + row, _size(x, 0))
    with_zeros = paddle.concat([x, paddle.zeros([1, *x.shape[1:]], x.dtype)])
    return paddle.gather_nd(with_zeros, index.unsqueeze(-1))
