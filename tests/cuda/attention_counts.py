"""What attention's kernels must count in the emulator, by theory."""

from __future__ import annotations

from tests.cuda.attention_emulated import EmulatedAttention
from tests.ops.attention_cases import make_case


def check_forward_counts(kernels: EmulatedAttention, dtype: str, head_dim: int) -> None:
    """Products: 4096 operations each. No bank conflicts; reads of whole sectors, each tile once per block."""
    seq, heads, tile = 256, 2, 64
    emulator = kernels.emulator
    emulator.configure(0)
    for causal in (False, True):
        case = make_case(1, seq, seq, heads, heads, head_dim, dtype=dtype, causal=causal)
        emulator.take_counters()
        kernels.run(case)
        count = emulator.take_counters()
        tiles = sum(block + 1 if causal else seq // tile for block in range(seq // tile)) * heads
        assert count["mma"] * 4096 == tiles * 4 * tile * tile * head_dim, "products"
        assert count["shared_wavefronts"] == count["shared_ideal"], "bank conflicts"
        read = 2 * head_dim * (heads * seq + 2 * tiles * tile)
        assert count["global_read_bytes"] == read, "bytes read"
        assert count["global_read_sectors"] == count["global_read_ideal"], "sectors read"
        statistics = 3 * 4 * heads * seq
        assert count["global_write_bytes"] == 2 * heads * seq * head_dim + statistics, "bytes written"
