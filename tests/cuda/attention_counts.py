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


def check_backward_counts(kernels: EmulatedAttention, dtype: str, head_dim: int) -> None:
    """Products: 4096 operations each, seven per pair of tiles. No bank conflicts; reads and writes of whole sectors."""
    seq, heads, owned, step = 256, 2, 64, 64 if head_dim <= 64 else 32
    kernels.emulator.configure(0)
    for causal in (False, True):
        case = make_case(1, seq, seq, heads, heads, head_dim, dtype=dtype, causal=causal)
        kernels.run_both(case)
        count = kernels.emulator.take_counters()
        # Of 64 queries, or 64 keys, times a step of the other axis; as many for both kernels.
        blocks = seq // owned
        pairs = blocks * (blocks + 1) // 2 if causal else blocks**2
        tiles = heads * pairs * owned // step
        assert count["mma"] * 4096 == tiles * 7 * 2 * owned * step * head_dim, "products"
        assert count["shared_wavefronts"] == count["shared_ideal"], "bank conflicts"
        row, rows, tile = 2 * head_dim, heads * seq, 16
        assert count["global_write_bytes"] == rows * (3 * row + tile), "bytes written"
        # Four lanes read the same row of scores, eight rows at a time: 12 sectors fewer than if each had its own. The
        # two numbers of a row's statistics are read apart: 1 sector more for each.
        assert count["global_read_sectors"] == count["global_read_ideal"] - rows // 8 * (12 - 2), (
            "sectors read"
        )
        expected = rows * (2 * row + 8 + 4)  # out and its gradient, stats, gradient of lse
        expected += rows * 2 * row + tiles * step * (2 * row + tile)  # keys, values; queries that see them
        expected += rows * 2 * row + rows * 4 * tile + tiles * step * 2 * row  # the other way round
        assert count["global_read_bytes"] == expected, "bytes read"
        assert count["global_write_sectors"] == count["global_write_ideal"], "sectors written"
        assert count["atomics"] == 0, "atomics"


def check_bias_counts(kernels: EmulatedAttention, dtype: str, head_dim: int) -> None:
    """The same of the gradient of a bias: nine products per pair of tiles."""
    seq = 128
    kernels.emulator.configure(0)
    for bias in ((1, 2, seq, seq), (1, 1, seq, 1), (1, 1, 1, seq)):
        kernels.run_both(make_case(1, seq, seq, 2, 2, head_dim, dtype=dtype, bias=bias))
        count = kernels.emulator.take_counters()
        assert count["mma"] * 4096 == 2 * seq * seq * (7 + 2) * 2 * head_dim, "products"
        assert count["shared_wavefronts"] == count["shared_ideal"], f"bank conflicts, bias {bias}"
