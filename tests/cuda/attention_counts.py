"""What attention's kernels must count in the emulator, by theory."""

from __future__ import annotations

from tests.cuda.attention_emulated import EmulatedAttention
from tests.ops.attention_inputs import make_case


def check_forward_counts(kernels: EmulatedAttention, dtype: str, head_dim: int) -> None:
    """Products: 4096 operations each. No bank conflicts; reads of whole sectors, each tile once per block."""
    seq, heads, keys = 256, 2, 64
    queries = 128 if head_dim <= 64 else 64  # of a block
    emulator = kernels.emulator
    emulator.configure(0)
    for causal in (False, True):
        case = make_case(1, seq, seq, heads, heads, head_dim, dtype=dtype, causal=causal)
        emulator.take_counters()
        kernels.run(case)
        count = emulator.take_counters()
        ends = range(queries, seq + 1, queries)  # of blocks
        steps = sum(end // keys if causal else seq // keys for end in ends) * heads
        assert count["mma"] * 4096 == steps * 4 * queries * keys * head_dim, "products"
        assert count["shared_wavefronts"] == count["shared_ideal"], "bank conflicts"
        read = 2 * head_dim * (heads * seq + 2 * steps * keys)
        assert count["global_read_bytes"] == read, "bytes read"
        assert count["global_read_sectors"] == count["global_read_ideal"], "sectors read"
        statistics = 3 * 4 * heads * seq
        assert count["global_write_bytes"] == 2 * heads * seq * head_dim + statistics, "bytes written"
