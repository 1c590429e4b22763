"""Checks a library with attention's forward kernels: ``python -m tests.cuda.attention_fwd_probe LIBRARY HEAD_DIM``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.cuda.attention_counts import check_forward_counts
from tests.cuda.attention_emulated import EmulatedAttention, check_forward, in_format
from tests.cuda.emulator import Emulator
from tests.cuda.mutation_probe import first_finding
from tests.ops.attention_gold import Case
from tests.ops.attention_inputs import everything, make_case, random_case

ORDERS = (0, 1, 7)


def forward_cases(dim: int) -> Iterator[tuple[str, Case, bool]]:
    """Give a few cases of which each has something of its own: name, case, whether the mask aligns to lengths."""

    def case(*shape: int, dtype: str = "bfloat16", **options: object) -> Case:
        return make_case(*shape, dtype=dtype, **options)

    yield "tails of tiles", case(1, 100, 177, 2, 2, dim), False
    yield "causal, heads share keys", case(2, 130, 177, 4, 2, dim, causal=True), False
    yield "one key in the last tile", case(1, 70, 71, 1, 1, dim, causal=True), False
    yield "float16", case(1, 70, 150, 2, 1, dim, dtype="float16", causal=True), False
    yield "window", case(1, 150, 200, 1, 1, dim, window=(40, 20)), False
    yield "rows that are not aligned", case(2, 70, 90, 2, 2, 17), False
    yield "rows at multiples of 8 bytes", case(2, 70, 90, 2, 2, 20), False
    yield "narrower heads", case(1, 70, 90, 2, 1, dim - 8), False
    yield "great scores", case(1, 70, 200, 1, 1, dim, logits=300.0), False
    yield "queries without keys", case(2, 70, 40, 2, 1, dim, causal=True, kv_lengths=[0, 30]), False
    yield "dropout", case(2, 70, 130, 4, 2, dim, dropout_p=0.4), False
    lengths = {"q_lengths": [70, 11], "kv_lengths": [80, 66]}
    yield "aligned to lengths", case(2, 70, 90, 2, 1, dim, causal=True, **lengths), True
    yield "every option", everything(dtype="bfloat16"), False
    for seed in range(12):
        random = random_case(seed)
        if random.query.shape[-1] <= dim:
            yield f"random case {seed}", in_format(random, "float16"), False


def checks(kernels: EmulatedAttention, dim: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Give all cases in several orders of threads, then what is counted."""
    for order in ORDERS:
        for name, case, align_to_lengths in forward_cases(dim):
            kernels.emulator.configure(order)
            check = partial(check_forward, kernels, case, seed=977, align_to_lengths=align_to_lengths)
            yield f"values: {name}, order {order}", check
    yield "counters", partial(check_forward_counts, kernels, "bfloat16", dim)


if __name__ == "__main__":
    sys.exit(first_finding(checks(EmulatedAttention(Emulator(Path(sys.argv[1]))), int(sys.argv[2]))))
