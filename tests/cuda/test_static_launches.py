"""What static_theory.py says of launches is what launchers do: the emulator keeps the block size of each."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from tests.cuda.attention_decode_emulated import EmulatedDecode
from tests.cuda.attention_emulated import EmulatedAttention
from tests.cuda.attention_f32_emulated import EmulatedFloat32Attention
from tests.cuda.emulator import Emulator
from tests.cuda.linear_cross_entropy_emulated import EmulatedHead
from tests.cuda.linear_topk_emulated import EmulatedTopk
from tests.cuda.static_budget import BUDGET
from tests.cuda.static_names import short_names, split_name
from tests.cuda.static_theory import dynamic_shared
from tests.ops import linear_cross_entropy_cases, linear_topk_cases
from tests.ops.attention_cases import make_case

HALF = ("bfloat16", "float16")
#: Its shared memory depends on how many queries share a head: 16, 32 or 64. The figure is the most.
DEPENDS_ON_SIZES = ("attention_decode_mma",)


def launch_attention(emulator: Emulator) -> None:
    """Launch every kernel of attention: each format and head dimension, plain and with a bias."""
    half, full = EmulatedAttention(emulator), EmulatedFloat32Attention(emulator)
    decode = EmulatedDecode(emulator)
    for options in ({}, {"bias": (1, 1, 1, 3)}):
        for dim in (32, 64, 96, 128, 256):
            full.run(make_case(1, 2, 3, 1, 1, dim, **options))
        for dim in (32, 64, 96, 128):
            for dtype in HALF:
                half.run_both(make_case(1, 2, 3, 1, 1, dim, dtype=dtype, **options))
            for dtype in ("float32", *HALF):
                for queries in (1, 16, 32, 64):
                    decode.run(make_case(1, queries, 3, 1, 1, dim, dtype=dtype, **options))
    for dtype in ("float32", *HALF):
        decode.run(make_case(1, 1, 300, 1, 1, 32, dtype=dtype))  # keys in two parts


def launch_head(emulator: Emulator) -> None:
    """Launch every kernel of linear_cross_entropy: each format and layout, few rows and many, a sum in parts."""
    kernels, make = EmulatedHead(emulator), linear_cross_entropy_cases.make_case
    for layout in ("vd", "dv"):
        kernels.run(make(2, 3, 4, weight_layout=layout), "float32")
        for dtype in HALF:
            for rows in (2, 33):
                kernels.run(make(rows, 3, 4, weight_layout=layout), dtype)
            kernels.run(make(2, 3, 1100, weight_layout=layout), dtype)
            kernels.run(make(0, 3, 4, weight_layout=layout), dtype)


def launch_topk(emulator: Emulator) -> None:
    """Launch every kernel of linear_topk."""
    kernels, make = EmulatedTopk(emulator), linear_topk_cases.make_case
    for layout in ("vd", "dv"):
        for dtype in ("float32", *HALF):
            for rows in (2, 33):
                kernels.run(make(rows, 3, 4, 1, layout=layout), dtype)


@pytest.fixture(scope="module")
def launches(attention, head, topk):
    """Threads and dynamic shared memory of every launch, by the names of kernels."""
    found: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for kernels, launch in ((attention, launch_attention), (head, launch_head), (topk, launch_topk)):
        kernels.emulator.configure(0)
        kernels.emulator.take_launches()
        launch(kernels.emulator)
        taken = kernels.emulator.take_launches()
        names = short_names(symbol for symbol, _, _ in taken)
        for symbol, threads, shared_bytes in taken:
            found[names[symbol]].add((threads, shared_bytes))
    return found


def test_every_kernel_of_the_budget_is_launched(launches):
    assert launches.keys() == json.loads(BUDGET.read_text())["80"].keys()


def test_blocks_are_launched_as_theory_says(launches):
    budget = json.loads(BUDGET.read_text())["80"]
    for key, blocks in launches.items():
        expected = (budget[key]["threads"], dynamic_shared(key))
        if split_name(key)[0] in DEPENDS_ON_SIZES:
            assert max(blocks) == expected, key
        else:
            assert blocks == {expected}, key
