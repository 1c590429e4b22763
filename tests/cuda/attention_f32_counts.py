"""What attention's float32 kernels must count in the emulator, by theory."""

from __future__ import annotations

import ctypes

import numpy as np

from tests.cuda.attention_emulated import POINTER
from tests.cuda.attention_f32_emulated import EmulatedFloat32Attention, make_params_f32
from tests.ops.attention_inputs import make_case


def check_f32_forward_counts(kernels: EmulatedFloat32Attention, head_dim: int, causal: bool) -> None:
    """No bank conflicts; reads of whole sectors, each tile once per block."""
    seq, heads = 256, 2
    tile_q = 64 if head_dim <= 128 else 32
    tile_k = 64 if head_dim <= 64 else 32 if head_dim <= 128 else 16
    kernels.emulator.configure(0)
    kernels.emulator.take_counters()
    kernels.run(make_case(1, seq, seq, heads, heads, head_dim, causal=causal), backward=False)
    count = kernels.emulator.take_counters()
    ends = [first + tile_q if causal else seq for first in range(0, seq, tile_q)]
    keys = sum(-(-end // tile_k) * tile_k for end in ends) * heads
    assert count["shared_wavefronts"] == count["shared_ideal"], "bank conflicts"
    assert count["global_read_bytes"] == 4 * head_dim * (heads * seq + 2 * keys), "bytes read"
    assert count["global_read_sectors"] == count["global_read_ideal"], "sectors read"
    assert count["global_write_bytes"] == 4 * heads * seq * (head_dim + 3), "bytes written"
    assert count["atomics"] == 0, "atomics"


def check_f32_backward_counts(kernels: EmulatedFloat32Attention, head_dim: int) -> None:
    """Each block reads its own tiles once, and each tile that it goes through once."""
    seq, heads, terms = 256, 2, 16
    own = 64 if head_dim <= 64 else 32 if head_dim <= 128 else 16
    case = make_case(1, seq, seq, heads, heads, head_dim)
    p, arrays = make_params_f32(case, 0)
    kernels.emulator.configure(0)
    kernels.call(p, arrays, backward=False)
    workspace = np.zeros(kernels.workspace_bytes(ctypes.byref(p)) + 64, "uint8")
    p.workspace = POINTER(-(-workspace.ctypes.data // 64) * 64)
    kernels.emulator.take_counters()
    assert kernels.backward(ctypes.byref(p), None) is None
    count = kernels.emulator.take_counters()
    row, blocks = 4 * head_dim, seq // own
    of_terms = seq * (2 * row + 3 * 4)
    of_products = 2 * 2 * row * (seq + blocks * seq)
    # Terms of its queries: of every thread once in the pass of queries, once per tile in the pass of keys.
    of_rows = terms * (16 * seq + 8 * blocks * seq)
    assert count["global_read_bytes"] == heads * (of_terms + of_products + of_rows), "bytes read"
    assert count["global_write_bytes"] == heads * seq * (terms + 3 * row), "bytes written"
    assert count["global_write_sectors"] == count["global_write_ideal"], "sectors written"
    assert count["shared_wavefronts"] == count["shared_ideal"], "bank conflicts"
    assert count["atomics"] == 0, "atomics"
