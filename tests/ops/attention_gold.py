"""The true attention and its gradients: float64 numpy, straight from the definition, without any of the library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NAMES = ("out", "lse", "query", "key", "value", "bias")


@dataclass
class Case:
    """Inputs, and what comes from above, as numpy arrays; [batch, sequence, head, head_dim]."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    grad_out: np.ndarray
    grad_lse: np.ndarray
    bias: np.ndarray | None = None  # float: has a gradient; bool: a mask
    kv_lengths: np.ndarray | None = None
    q_lengths: np.ndarray | None = None
    alibi_slopes: np.ndarray | None = None
    options: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"

    @property
    def has_bias_gradient(self) -> bool:
        return self.bias is not None and self.bias.dtype != bool


@dataclass
class Gold:
    """The true results, and the same sums without cancellation: rounding errors are relative to these."""

    results: dict[str, np.ndarray]
    magnitudes: dict[str, float]


def bfloat16(x: np.ndarray) -> np.ndarray:
    """Round to the nearest number that bfloat16 has, ties to even."""
    bits = np.ascontiguousarray(x, "float32").view("uint32")
    bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits & np.uint32(0xFFFF0000)).view("float32").astype("float64")


def dropout_bits(seed: int, heads: int, queries: int, keys: int) -> np.ndarray:
    """The numbers that decide, [heads, queries, keys]: as csrc/attention/attention_dropout.h says."""
    head, i, j = (np.arange(n, dtype="uint32") for n in (heads, queries, keys))
    step, query_step = np.uint32(0x9E3779B9), np.uint32(0x85EBCA6B)
    low, high = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32 & 0xFFFFFFFF)
    with np.errstate(over="ignore"):
        head_key = _mix(_mix(low + step * head) ^ high)
        row_key = _mix(head_key[:, None] + query_step * i)
        return _mix(row_key[:, :, None] + step * j)


def _mix(x: np.ndarray) -> np.ndarray:
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def visible(case: Case, align_to_lengths: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Which keys each query sees, and how far a key is before its query: both broadcast to [B, H, Sq, Sk]."""
    batch, seq_q = case.query.shape[:2]
    seq_k = case.key.shape[1]
    i, j = np.arange(seq_q)[:, None], np.arange(seq_k)
    kv_lengths = np.full(batch, seq_k) if case.kv_lengths is None else case.kv_lengths
    q_lengths = np.full(batch, seq_q) if case.q_lengths is None else case.q_lengths
    keys, queries = kv_lengths[:, None, None, None], q_lengths[:, None, None, None]
    behind = i + (keys - queries if align_to_lengths else seq_k - seq_q) - j
    seen = (j < keys) & (i < queries)
    if case.options.get("causal", False):
        seen = seen & (behind >= 0)
    left, right = case.options.get("window") or (None, None)
    if left is not None:
        seen = seen & (behind <= left)
    if right is not None:
        seen = seen & (behind >= -right)
    if case.bias is not None and case.bias.dtype == bool:
        seen = seen & case.bias
    return seen, behind


def gold(
    case: Case,
    *,
    align_to_lengths: bool = False,
    seed: int | None = None,
    rounding: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> Gold:
    """Compute everything. ``rounding`` is applied to the factors of every matrix product."""
    o, r = case.options, rounding
    batch, seq_q, heads, head_dim = case.query.shape
    seq_k, kv_heads = case.key.shape[1:3]
    groups = heads // kv_heads

    def heads_first(x: np.ndarray) -> np.ndarray:
        return x.astype("float64").transpose(0, 2, 1, 3)

    q, do = r(heads_first(case.query)), heads_first(case.grad_out)
    k, v = (r(np.repeat(heads_first(x), groups, axis=1)) for x in (case.key, case.value))
    scale, cap = o.get("scale"), o.get("softcap", 0.0)
    scale = head_dim**-0.5 if scale is None else scale
    z = scale * (q @ k.swapaxes(2, 3))
    s, slope = z, np.ones_like(z)
    if cap:
        t = np.tanh(z / cap)
        s, slope = cap * t, 1 - t**2
    seen, behind = visible(case, align_to_lengths)
    if case.has_bias_gradient:
        s = s + case.bias.astype("float64")
    if case.alibi_slopes is not None:
        s = s - case.alibi_slopes.astype("float64")[..., None, None] * np.abs(behind)
    s = np.where(seen, s, -np.inf)
    top = s.max(axis=3, keepdims=True, initial=-np.inf)
    e = np.exp(s - np.where(np.isfinite(top), top, 0.0))
    total = e.sum(axis=3, keepdims=True)
    is_empty = total == 0
    p = e / np.where(is_empty, 1.0, total)
    with np.errstate(divide="ignore"):
        lse = (np.where(is_empty, 0.0, top) + np.log(total))[..., 0]

    keep = np.ones_like(p)
    dropout_p = o.get("dropout_p", 0.0)
    if dropout_p:
        bits = dropout_bits(seed, batch * heads, seq_q, seq_k).reshape(p.shape)
        keep = (bits >= int(float(np.float32(dropout_p)) * 2**32)) / (1 - dropout_p)
    dropped = r(p * keep)
    out = dropped @ v

    rounded_do = r(do)
    dp = (rounded_do @ v.swapaxes(2, 3)) * keep
    dlse = np.where(is_empty, 0.0, case.grad_lse.astype("float64")[..., None])
    delta = (do * out).sum(axis=3, keepdims=True)  # is sum_j p_j dp_j
    ds = p * (dp - delta + dlse)
    size_ds = p * (np.abs(dp) + (np.abs(dp) * p).sum(axis=3, keepdims=True) + np.abs(dlse))
    dz, size_dz = r(ds * slope), size_ds * slope

    def of_kv_heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(batch, kv_heads, groups, seq_k, head_dim).sum(axis=2).transpose(0, 2, 1, 3)

    def of_bias(x: np.ndarray) -> np.ndarray:
        shape = case.bias.shape
        aligned = (1,) * (4 - len(shape)) + shape
        axes = tuple(axis for axis in range(4) if aligned[axis] != x.shape[axis])
        return np.broadcast_to(x, (batch, heads, seq_q, seq_k)).sum(axis=axes, keepdims=True).reshape(shape)

    def everything(
        out: np.ndarray,
        lse: np.ndarray,
        ds: np.ndarray,
        dz: np.ndarray,
        q: np.ndarray,
        k: np.ndarray,
        dv: np.ndarray,
    ) -> dict[str, np.ndarray]:
        found = {
            "out": out.transpose(0, 2, 1, 3),
            "lse": lse,
            "query": scale * (dz @ k).transpose(0, 2, 1, 3),
            "key": scale * of_kv_heads(dz.swapaxes(2, 3) @ q),
            "value": of_kv_heads(dv),
        }
        return {**found, "bias": of_bias(ds)} if case.has_bias_gradient else found

    largest_score = np.where(seen, np.abs(z) + np.abs(np.where(seen, s, 0.0)), 0.0).max(axis=3, initial=0.0)
    sizes = everything(
        dropped @ np.abs(v),
        largest_score,
        size_ds,
        size_dz,
        np.abs(q),
        np.abs(k),
        dropped.swapaxes(2, 3) @ np.abs(rounded_do),
    )
    return Gold(
        everything(out, lse, ds, dz, q, k, dropped.swapaxes(2, 3) @ rounded_do),
        {name: float(np.abs(size).max(initial=0.0)) for name, size in sizes.items()},
    )
