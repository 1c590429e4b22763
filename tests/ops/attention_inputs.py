"""Inputs of attention for tests, as numpy arrays: for every backend, also where there is no Paddle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.ops.attention_gold import Case, bfloat16


def make_case(
    batch: int,
    seq_q: int,
    seq_k: int,
    heads: int = 2,
    kv_heads: int | None = None,
    head_dim: int = 8,
    *,
    seed: int = 0,
    logits: float = 1.0,
    bias: Sequence[int] | None = None,
    mask: Sequence[int] | None = None,
    kv_lengths: Sequence[int] | None = None,
    q_lengths: Sequence[int] | None = None,
    alibi: Sequence[int] | None = None,
    dtype: str = "float32",
    **options: Any,
) -> Case:
    """Random inputs whose products have a standard deviation of ``logits``; shapes of bias, mask and slopes."""
    rng = np.random.default_rng(seed)
    kv_heads = heads if kv_heads is None else kv_heads
    q_shape, k_shape = (batch, seq_q, heads, head_dim), (batch, seq_k, kv_heads, head_dim)

    def normal(*shape: int) -> np.ndarray:
        x = rng.standard_normal(shape).astype("float32")
        return bfloat16(x).astype("float32") if dtype == "bfloat16" else x.astype(dtype).astype("float32")

    case = Case(
        query=normal(*q_shape) * np.float32(logits),
        key=normal(*k_shape),
        value=normal(*k_shape),
        grad_out=normal(*q_shape),
        grad_lse=rng.standard_normal((batch, heads, seq_q)).astype("float32"),
        options=options,
        dtype=dtype,
    )
    if bias is not None:
        case.bias = rng.standard_normal(tuple(bias)).astype("float32")
    if mask is not None:
        case.bias = rng.random(tuple(mask)) < 0.7
    if kv_lengths is not None:
        case.kv_lengths = np.array(kv_lengths, "int32")
    if q_lengths is not None:
        case.q_lengths = np.array(q_lengths, "int64")
    if alibi is not None:
        case.alibi_slopes = rng.uniform(0.0, 0.5, tuple(alibi)).astype("float32")
    return case


#: Every option non-default at once, for 2 batch entries, 4 heads on 2, 37 queries and 71 keys.
EVERYTHING = {
    "bias": (2, 1, 37, 71),
    "kv_lengths": (71, 40),
    "q_lengths": (30, 37),
    "alibi": (2, 4),
    "causal": True,
    "window": (33, 5),
    "softcap": 2.5,
    "scale": -0.6,
    "dropout_p": 0.3,
}


def everything(seed: int = 0, **options: Any) -> Case:
    """One case with everything non-default, and tails everywhere."""
    return make_case(2, 37, 71, 4, 2, 24, seed=seed, **{**EVERYTHING, **options})


def random_case(seed: int) -> Case:
    """A case in which every option is on or off by chance. Most are small, some are longer than the kernels' blocks."""
    rng = np.random.default_rng([7, seed])

    def one_of(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    def by_chance(share: float) -> bool:
        return bool(rng.random() < share)

    most = one_of(4, 12, 12, 30, 30, 90, 150)
    batch, groups, kv_heads = int(rng.integers(1, 4)), one_of(1, 1, 2, 3), one_of(1, 1, 2)
    seq_q, seq_k = (int(n) for n in rng.integers(1, most + 1, 2))
    seq_k = seq_q if by_chance(0.3) else seq_k
    heads = groups * kv_heads
    full = (batch, heads, seq_q, seq_k)

    def pattern() -> tuple[int, ...]:
        sizes = tuple(1 if by_chance(0.4) else size for size in full)
        return sizes[int(rng.integers(0, 4)) :] if by_chance(0.3) else sizes

    options: dict[str, Any] = {"causal": by_chance(0.4)}
    kind = one_of("none", "none", "bias", "mask")
    if kind != "none":
        options[kind] = pattern()
    if by_chance(0.3):
        options["window"] = tuple(None if by_chance(0.3) else int(n) for n in rng.integers(0, most + 1, 2))
    if by_chance(0.3):
        options["kv_lengths"] = rng.integers(0, seq_k + 1, batch)
    if by_chance(0.2):
        options["q_lengths"] = rng.integers(0, seq_q + 1, batch)
    if by_chance(0.2):
        options["alibi"] = one_of((heads,), (batch, heads))
    if by_chance(0.2):
        options["softcap"] = one_of(0.5, 3.0, 30.0)
    if by_chance(0.3):
        options["scale"] = one_of(-0.3, 0.0, 0.07, 1.0)
    if by_chance(0.2):
        options["dropout_p"] = one_of(0.1, 0.5, 0.9)
    head_dim = one_of(1, 3, 8, 8, 16, 17, 32, 33, 64)
    return make_case(
        batch,
        seq_q,
        seq_k,
        heads,
        kv_heads,
        head_dim,
        seed=seed,
        logits=one_of(0.1, 1.0, 1.0, 4.0),
        **options,
    )
