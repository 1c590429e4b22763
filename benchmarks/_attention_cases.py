"""The shapes and options that attention is measured at, their inputs, and how their operations are counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# What is measured: `time`; `call` where a call costs more than its arithmetic; `lengths` is a padded batch of sequences
# of very different lengths.
OPTIONS = (
    "",
    "causal",
    "bool mask",
    "float bias",
    "bias gradient",
    "key padding",
    "lengths",
    "lengths causal",
)
PASSES = ("forward", "forward+backward")
SHORTEST, LONGEST = 8, 512  # of the sequences of `lengths`


@dataclass(frozen=True)
class Case:
    """One shape and option."""

    batch: int
    seq_q: int
    seq_k: int
    heads: int
    kv_heads: int
    head_dim: int
    option: str = ""
    kind: str = "time"

    def __str__(self) -> str:
        """The shape as [B,S,H,D]; what differs for keys and values after a slash."""
        seq = f"{self.seq_q}/{self.seq_k}" if self.seq_q != self.seq_k else f"{self.seq_q}"
        heads = f"{self.heads}/{self.kv_heads}" if self.heads != self.kv_heads else f"{self.heads}"
        name = f"({self.batch},{seq},{heads},{self.head_dim})"
        return f"{name} {self.option}" if self.option else name

    @property
    def causal(self) -> bool:
        """Whether a query sees only the keys up to its own place."""
        return "causal" in self.option

    @property
    def has_lengths(self) -> bool:
        """Whether queries and keys are padded."""
        return self.option.startswith("lengths")

    def columns(self) -> dict[str, Any]:
        """The columns of the CSV files that name the case."""
        return {key: value for key, value in asdict(self).items() if key != "kind"}


def self_attention(
    batch: int, seq: int, heads: int, head_dim: int, option: str = "", kv_heads: int = 0, kind: str = "time"
) -> Case:
    """A case with as many queries as keys."""
    return Case(batch, seq, seq, heads, kv_heads or heads, head_dim, option, kind)


# A first table that others have figures for; then lengths, head sizes, options.
FULL = (
    self_attention(8, 128, 12, 64),
    self_attention(8, 128, 12, 64, "causal"),
    self_attention(1, 512, 12, 64),
    self_attention(1, 2048, 12, 64),
    self_attention(1, 2048, 12, 64, "causal"),
    self_attention(4, 1024, 16, 128),
    self_attention(1, 8192, 8, 64, "causal"),
    self_attention(64, 16, 12, 64),
    self_attention(32, 64, 12, 64),
    self_attention(4, 256, 12, 64, "causal"),
    self_attention(1, 1024, 12, 64, "causal"),
    self_attention(1, 4096, 8, 64),
    self_attention(1, 4096, 8, 64, "causal"),
    self_attention(1, 16384, 1, 64, "causal"),
    Case(4, 64, 1024, 12, 12, 64),
    self_attention(2, 512, 12, 32),
    self_attention(2, 512, 12, 80),
    self_attention(2, 512, 12, 96),
    self_attention(2, 512, 8, 128),
    self_attention(2, 512, 8, 128, "causal"),
    self_attention(2, 512, 4, 256),
    self_attention(2, 512, 12, 64, "bool mask"),
    self_attention(2, 512, 12, 64, "float bias"),
    self_attention(2, 512, 12, 64, "bias gradient"),
    self_attention(8, 512, 12, 64, "key padding"),
    self_attention(1, 1024, 32, 128, "causal", kv_heads=8),
    self_attention(2, 512, 16, 64, kv_heads=1),
    self_attention(32, LONGEST, 12, 64, "lengths"),
    self_attention(32, LONGEST, 12, 64, "lengths causal"),
    self_attention(1, 16, 1, 64, kind="call"),
    self_attention(1, 1, 1, 8, kind="call"),
    self_attention(1, 16, 12, 64, kind="call"),
)
QUICK = (
    self_attention(8, 128, 12, 64),
    self_attention(1, 512, 12, 64),
    self_attention(1, 1024, 12, 64, "causal"),
    self_attention(1, 16, 1, 64, kind="call"),
)
MEMORY_FULL = (
    self_attention(1, 2048, 12, 64),
    self_attention(1, 2048, 12, 64, "causal"),
    self_attention(1, 2048, 12, 64, "bool mask"),
    self_attention(1, 2048, 12, 64, "bias gradient"),
    self_attention(4, 1024, 16, 128),
    *(self_attention(1, seq, 8, 64, "causal") for seq in (1024, 2048, 4096, 8192, 16384)),  # how it grows
)
MEMORY_QUICK = (self_attention(1, 2048, 12, 64, "causal"),)
ACCURACY_FULL = (
    self_attention(2, 128, 12, 64),
    self_attention(1, 512, 12, 64, "causal"),
    self_attention(1, 512, 12, 64, "float bias"),
    self_attention(1, 512, 4, 256),
    self_attention(1, 2048, 4, 64),
    self_attention(1, 4096, 2, 64, "causal"),
)
ACCURACY_QUICK = (self_attention(2, 128, 12, 64),)


def make_lengths(case: Case) -> np.ndarray | None:
    """Lengths of the sequences (one is the longest possible): always the same for a case; None if it has none."""
    rng = np.random.default_rng(3)
    if case.has_lengths:
        lengths = rng.integers(SHORTEST, case.seq_q + 1, case.batch)
    elif case.option == "key padding":
        lengths = rng.integers(case.seq_k // 4, case.seq_k + 1, case.batch)
    else:
        return None
    lengths[0] = case.seq_k
    return lengths.astype("int32")


def visible_pairs(case: Case) -> int:
    """Pairs of query and key that count, of one head in all of the batch.

    Causal masks and lengths take pairs away (nobody needs to compute them); an arbitrary mask or bias does not.
    """
    lengths = make_lengths(case)
    if case.has_lengths:
        return int(sum(n * (n + 1) // 2 if case.causal else n * n for n in lengths.tolist()))
    if lengths is not None:
        return case.seq_q * int(lengths.sum())
    if case.causal:
        rows = np.arange(case.seq_q) + case.seq_k - case.seq_q + 1
        return case.batch * int(rows.clip(0, case.seq_k).sum())
    return case.batch * case.seq_q * case.seq_k


def floating_point_operations(case: Case, which_pass: str) -> float:
    """Count 4 per pair, head and head dimension for the forward pass, 2.5 times that for the backward pass.

    That is the field's convention: two matrix products forward, five backward (one of them the scores again), two
    operations per multiply-add, nothing for the exponentials.
    """
    forward = 4.0 * visible_pairs(case) * case.heads * case.head_dim
    return forward * (3.5 if which_pass == "forward+backward" else 1.0)


def make_inputs(case: Case, exact_in_bfloat16: bool = True) -> dict[str, np.ndarray]:
    """Return query, key, value, the output's gradient and what the option needs; the same at every call.

    Args:
        case: the case.
        exact_in_bfloat16: use numbers that bfloat16 can hold, so that every contestant computes with the same ones.
    """
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        values = rng.standard_normal(shape, "float32")
        return round_to_bfloat16(values) if exact_in_bfloat16 else values

    keys = (case.batch, case.seq_k, case.kv_heads, case.head_dim)
    queries = (case.batch, case.seq_q, case.heads, case.head_dim)
    data = {"query": normal(*queries), "key": normal(*keys), "value": normal(*keys), "grad": normal(*queries)}
    if case.option == "bool mask":
        data["mask"] = rng.random((case.batch, 1, case.seq_q, case.seq_k)) < 0.8
        data["mask"][..., 0] = True  # peers give NaN for a row that sees nothing
    elif case.option in ("float bias", "bias gradient"):
        data["bias"] = normal(1, case.heads, case.seq_q, case.seq_k)
    lengths = make_lengths(case)
    if lengths is not None:
        data["lengths"] = lengths
        data["mask"] = (np.arange(case.seq_k) < lengths[:, None])[:, None, None, :]
    if case.has_lengths:  # what padding is given as a gradient does not count
        data["grad"] *= (np.arange(case.seq_q) < data["lengths"][:, None])[:, :, None, None]
    return data


def round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 numbers to the nearest that bfloat16 can hold, ties to even."""
    bits = np.ascontiguousarray(values, "float32").view("uint32")
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view("float32")
