"""What the kernels of attention to a cache must count in the emulator, by theory."""

from __future__ import annotations

from tests.cuda.attention_decode_emulated import EmulatedDecode
from tests.ops.attention_inputs import make_case


def check_counts_of_one_split(kernels: EmulatedDecode, dtype: str, head_dim: int, groups: int) -> None:
    """Keys and values once for all queries of a block, no bank conflicts, no atomics."""
    size = 4 if dtype == "float32" else 2
    seq_k, kv_heads = 256, 2
    kernels.emulator.configure(0)
    kernels.emulator.take_counters()
    kernels.run(make_case(1, 1, seq_k, groups * kv_heads, kv_heads, head_dim, dtype=dtype))
    count = kernels.emulator.take_counters()
    rows = groups * kv_heads
    assert count["launches"] == 1, "launches"
    assert count["global_read_bytes"] == size * head_dim * (2 * kv_heads * seq_k + rows), "bytes read"
    assert count["global_read_sectors"] == count["global_read_ideal"], "sectors read"
    assert count["global_write_bytes"] == rows * (size * head_dim + 4), "bytes written"
    assert count["shared_wavefronts"] == count["shared_ideal"], "bank conflicts"
    assert count["atomics"] == 0, "atomics"


def check_counts_of_splits(kernels: EmulatedDecode, dtype: str, head_dim: int) -> None:
    """The rest is little: queries once per split, and what the splits have found, written and read once."""
    size = 4 if dtype == "float32" else 2
    seq_k, heads, kv_heads, splits = 1024, 8, 2, 4
    kernels.emulator.configure(0)
    kernels.emulator.take_counters()
    kernels.run(make_case(1, 1, seq_k, heads, kv_heads, head_dim, dtype=dtype))
    count = kernels.emulator.take_counters()
    cache = 2 * size * kv_heads * seq_k * head_dim
    queries = splits * size * heads * head_dim
    # Of each row and split: maximum and sum twice and by every lane that sums, and the sums.
    found = splits * heads * (2 * 8 + head_dim // 4 * (8 + 16))
    assert count["launches"] == 2, "launches"
    assert count["global_read_bytes"] == cache + queries + found, "bytes read"
    partial = splits * heads * (4 * head_dim + 8)
    assert count["global_write_bytes"] == partial + heads * (size * head_dim + 4), "bytes written"
    assert count["shared_wavefronts"] == count["shared_ideal"], "bank conflicts"
