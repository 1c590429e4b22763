"""Inference with a cache: one query per sequence against all cached keys and values, by everyone on the same cache.

There is little to compute and much to read, so what counts is bandwidth. ``torch-dot`` multiplies the keys with the
values in one long dot product: it reads the same bytes once, and says how fast that can be.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks._attention_cases import Case
from benchmarks._attention_contestants import contestant, set_mode
from benchmarks._harness import Contestant

NAMES = ("fused", "fused-bf16", "paddle", "paddle-no-stride", "torch", "torch-bf16", "torch-dot")


def decode_case(batch: int, cache: int, heads: int, kv_heads: int, head_dim: int) -> Case:
    """A case with one query for each sequence."""
    return Case(batch, 1, cache, heads, kv_heads, head_dim, kind="decode")


FULL = tuple(
    decode_case(batch, cache, *heads)
    for heads in ((32, 8, 128), (12, 12, 64))
    for batch in (1, 8)
    for cache in (512, 2048, 8192)
)
QUICK = (decode_case(1, 512, 32, 8, 128), decode_case(8, 512, 12, 12, 64))


def compared_with(name: str) -> str | None:
    """Return the contestant of ours that this one's ratios are relative to; None for that one itself."""
    if name == "fused":
        return None
    return "fused-bf16" if name == "torch-bf16" else "fused"


def bytes_read(case: Case, name: str) -> int:
    """Bytes of the cached keys and values, which must be read once."""
    return 2 * case.batch * case.seq_k * case.kv_heads * case.head_dim * (2 if name.endswith("bf16") else 4)


def decode_contestant(name: str, case: Case, data: dict[str, np.ndarray], threads: int) -> Contestant:
    """Return the contestant of that name, one of :data:`NAMES`."""
    if name in ("fused", "fused-bf16"):
        return _ours(name, data)
    if name == "torch-dot":
        return _dot(data, threads)
    return contestant(name, case, data, backward=False, threads=threads)


def _ours(name: str, data: dict[str, np.ndarray]) -> Contestant:
    import paddle

    import paddle_infra as pi

    dtype = "bfloat16" if name == "fused-bf16" else "float32"
    query, key, value = (paddle.to_tensor(data[k]).astype(dtype) for k in ("query", "key", "value"))

    def results(found: list[paddle.Tensor]) -> list[np.ndarray]:
        return [tensor.astype("float32").numpy() for tensor in found]

    return Contestant(
        lambda: [pi.ops.attention_decode(query, key, value, impl="fused")], lambda: set_mode("fused"), results
    )


def _dot(data: dict[str, np.ndarray], threads: int) -> Contestant:
    import torch

    torch.set_num_threads(threads)
    key, value = (torch.from_numpy(data[name]).flatten() for name in ("key", "value"))
    nothing_to_compare: Any = lambda found: None  # noqa: E731
    return Contestant(lambda: torch.dot(key, value), results=nothing_to_compare)
