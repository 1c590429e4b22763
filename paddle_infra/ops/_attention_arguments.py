"""Checks and converts the arguments of the attention operators, for every implementation of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.checks import (
    UNKNOWN,
    check_flag,
    check_integer,
    check_lengths,
    check_number,
    check_shape,
    check_tensor,
    device_of,
    dtype_name,
)
from paddle_infra._core.errors import InvalidInputError

_FLOATS = ("float32", "float64", "float16", "bfloat16")
_INTEGERS = ("int32", "int64")
_LARGEST = float(np.finfo("float32").max)
_NO_LIMIT = -1
_FARTHEST = 1 << 30  # a window this wide hides nothing
_MEANING = "[batch_size, seq_len, num_heads, head_dim]"
_MEANING_PACKED = "[tokens, num_heads, head_dim]"


@dataclass
class Options:
    """What attention operators have in common besides their tensors, as given; see paddle_infra.ops.attention."""

    causal: bool = False
    window: Any = None
    softcap: float = 0.0
    scale: float | None = None
    dropout_p: float = 0.0
    training: bool = True
    deterministic: bool = False
    bias: paddle.Tensor | None = None
    kv_lengths: paddle.Tensor | None = None
    q_lengths: paddle.Tensor | None = None
    alibi_slopes: paddle.Tensor | None = None


@dataclass(frozen=True)
class Arguments:
    """Checked arguments of attention.

    Attributes:
        bias: Four axes; bool, or float in the dtype that scores are computed in.
        kv_lengths: int32; so are ``q_lengths`` and ``cu_seqlens``.
        window: Left and right, -1 for no limit; causal attention is a right limit of 0.
        dropout_p: 0 unless training.
        max_seqlen_q: 0 if not known; so is ``max_seqlen_k``.
        align_to_lengths: The last query is level with the last existing key, not with the last key.
    """

    query: paddle.Tensor
    key: paddle.Tensor
    value: paddle.Tensor
    bias: paddle.Tensor | None
    kv_lengths: paddle.Tensor | None
    q_lengths: paddle.Tensor | None
    alibi_slopes: paddle.Tensor | None
    window: tuple[int, int]
    softcap: float
    scale: float
    dropout_p: float
    cu_seqlens_q: paddle.Tensor | None = None
    cu_seqlens_k: paddle.Tensor | None = None
    max_seqlen_q: int = 0
    max_seqlen_k: int = 0
    align_to_lengths: bool = False


def check_attention(
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    options: Options,
    align_to_lengths: bool = False,
) -> Arguments:
    """Check the arguments of attention on [batch, sequence, head, head_dim]; return them in final form."""
    _check_tensors(query, key, value, _MEANING)
    batch, seq_q, heads, head_dim = query.shape
    seq_k = key.shape[1]
    return Arguments(
        query,
        key,
        value,
        _bias(options.bias, query, [batch, heads, seq_q, seq_k]),
        _lengths("kv_lengths", options.kv_lengths, query, batch, seq_k),
        _lengths("q_lengths", options.q_lengths, query, batch, seq_q),
        _slopes(options.alibi_slopes, query, batch, heads),
        *_numbers(options, head_dim),
        align_to_lengths=align_to_lengths,
    )


def check_varlen(
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    cu_seqlens_q: paddle.Tensor,
    cu_seqlens_k: paddle.Tensor,
    options: Options,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
) -> Arguments:
    """Check the arguments of attention on packed sequences; return them in final form."""
    _check_tensors(query, key, value, _MEANING_PACKED)
    tokens, heads, head_dim = query.shape
    starts_q, longest_q = _starts("cu_seqlens_q", cu_seqlens_q, query, tokens)
    starts_k, longest_k = _starts("cu_seqlens_k", cu_seqlens_k, query, key.shape[0])
    count = starts_q.shape[0]
    check_shape("cu_seqlens_k", starts_k, [count], "shape of cu_seqlens_q")
    batch = count - 1 if count != UNKNOWN else UNKNOWN
    return Arguments(
        query,
        key,
        value,
        None,
        None,
        None,
        _slopes(options.alibi_slopes, query, batch, heads),
        *_numbers(options, head_dim),
        starts_q,
        starts_k,
        _longest("max_seqlen_q", max_seqlen_q, longest_q),
        _longest("max_seqlen_k", max_seqlen_k, longest_k),
    )


def _check_tensors(query: Any, key: Any, value: Any, meaning: str) -> None:
    check_tensor("query", query, _FLOATS)
    dtype = dtype_name(query)
    _check_tensor_like("key", key, (dtype,), query)
    _check_tensor_like("value", value, (dtype,), query)
    shape, found = list(query.shape), list(key.shape)
    if len(shape) != meaning.count(",") + 1 or 0 in shape[-2:]:
        raise InvalidInputError(
            f"query: expected shape {meaning} with heads and head_dim at least 1, got {shape}"
        )
    free = [UNKNOWN] * 2
    check_shape("key", key, [*shape[:-3], *free, shape[-1]], f"{meaning}, some as of query, -1: any size")
    heads, kv_heads = shape[-2], found[-2]
    if UNKNOWN not in (heads, kv_heads) and (kv_heads == 0 or heads % kv_heads != 0):
        raise InvalidInputError(
            f"key: expected a number of heads that divides the {heads} of query, got {kv_heads}"
        )
    check_shape("value", value, found, "shape of key")


def _check_tensor_like(name: str, value: Any, dtypes: Sequence[str], query: Any) -> None:
    check_tensor(name, value, dtypes)
    expected, found = device_of(query), device_of(value)
    if found != expected:
        raise InvalidInputError(
            f"{name}: expected a tensor on {expected}, where query is, got one on {found}"
        )


def _numbers(o: Options, head_dim: int) -> tuple[tuple[int, int], float, float, float]:
    """Return window, softcap, scale and the dropout probability that counts."""
    left, right = _window(o.window)
    if check_flag("causal", o.causal):
        right = 0
    softcap = check_number("softcap", o.softcap, 0.0, _LARGEST)
    if o.scale is not None:
        scale = check_number("scale", o.scale, -_LARGEST, _LARGEST)
    elif head_dim == UNKNOWN:
        raise InvalidInputError(
            "scale: expected a number, because the program does not know head_dim, got None"
        )
    else:
        scale = head_dim**-0.5
    dropout_p = check_number("dropout_p", o.dropout_p)
    if not (dropout_p >= 0.0 and float(np.float32(dropout_p)) < 1.0):
        raise InvalidInputError(f"dropout_p: expected a probability in [0, 1), got {dropout_p!r}")
    check_flag("deterministic", o.deterministic)
    return (left, right), softcap, scale, dropout_p if check_flag("training", o.training) else 0.0


def _window(window: Any) -> tuple[int, int]:
    if window is None:
        return _NO_LIMIT, _NO_LIMIT
    if not isinstance(window, (tuple, list)) or len(window) != 2:
        raise InvalidInputError(f"window: expected None or two sizes (left, right), got {window!r}")
    sizes = []
    for name, size in zip(("left", "right"), window, strict=True):
        if size is not None and check_integer(f"window, {name}", size) < 0:
            raise InvalidInputError(
                f"window, {name}: expected None for no limit, or a size of 0 or more, got {size}"
            )
        sizes.append(_NO_LIMIT if size is None else min(size, _FARTHEST))
    return sizes[0], sizes[1]


def _bias(bias: Any, query: paddle.Tensor, full: list[int]) -> paddle.Tensor | None:
    if bias is None:
        return None
    _check_tensor_like("bias", bias, (*_FLOATS, "bool"), query)
    found = list(bias.shape)
    missing = 4 - len(found)
    fits = missing >= 0 and all(
        f == 1 or f == e or UNKNOWN in (f, e) for f, e in zip(found, full[missing:], strict=True)
    )
    if not fits:
        raise InvalidInputError(
            f"bias: expected a shape that broadcasts to {full} ([batch_size, num_heads, seq_q, seq_k]), got {found}"
        )
    if missing:
        bias = bias.unsqueeze(list(range(missing)))
    dtype = "float64" if dtype_name(query) == "float64" else "float32"
    return bias if dtype_name(bias) in ("bool", dtype) else bias.astype(dtype)


def _slopes(slopes: Any, query: paddle.Tensor, batch: int, heads: int) -> paddle.Tensor | None:
    if slopes is None:
        return None
    _check_tensor_like("alibi_slopes", slopes, ("float32",), query)
    if slopes.ndim == 1:
        check_shape("alibi_slopes", slopes, [heads], "[num_heads] or [batch_size, num_heads]")
    else:
        check_shape("alibi_slopes", slopes, [batch, heads], "[num_heads] or [batch_size, num_heads]")
    return slopes.detach()


def _int32(tensor: paddle.Tensor) -> paddle.Tensor:
    return tensor if dtype_name(tensor) == "int32" else tensor.astype("int32")


def _lengths(name: str, lengths: Any, query: Any, batch: int, most: int) -> paddle.Tensor | None:
    if lengths is None:
        return None
    _check_tensor_like(name, lengths, _INTEGERS, query)
    check_shape(name, lengths, [batch], "[batch_size]")
    check_lengths(name, lengths, most)
    return _int32(lengths)


def _starts(name: str, starts: Any, query: Any, tokens: int) -> tuple[paddle.Tensor, int]:
    """Return the starts as int32, and the longest length (0 in a static program)."""
    _check_tensor_like(name, starts, _INTEGERS, query)
    if starts.ndim != 1 or starts.shape[0] == 0:
        raise InvalidInputError(f"{name}: expected shape [batch_size + 1], got {list(starts.shape)}")
    if not paddle.in_dynamic_mode():
        return _int32(starts), 0
    values = starts.numpy().astype("int64")
    if values[0] != 0 or values[-1] != tokens:
        raise InvalidInputError(
            f"{name}: expected to start with 0 and end with {tokens}, the number of tokens, got {values[0]} and "
            f"{values[-1]}"
        )
    lengths = np.diff(values)
    if (lengths < 0).any():
        at = int((lengths < 0).argmax()) + 1
        raise InvalidInputError(
            f"{name}: expected no number below the one before it, got {values[at]} after {values[at - 1]} at {at}"
        )
    return _int32(starts), int(lengths.max(initial=0))


def _longest(name: str, bound: int | None, longest: int) -> int:
    if bound is None:
        return longest
    if check_integer(name, bound) < longest:
        raise InvalidInputError(f"{name}: expected at least {longest}, the longest sequence, got {bound}")
    return bound
