"""Checks kernels of attention to a cache: ``python -m tests.cuda.attention_decode_probe LIBRARY HEAD_DIM``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.cuda.attention_decode_counts import check_counts_of_one_split, check_counts_of_splits
from tests.cuda.attention_decode_emulated import (
    EmulatedDecode,
    check_decode,
    check_decode_addresses,
    random_decode_case,
)
from tests.cuda.emulator import Emulator
from tests.cuda.mutation_probe import first_finding
from tests.ops.attention_gold import Case
from tests.ops.attention_inputs import everything, make_case

ORDERS = (0, 1, 7)
FORMATS = ("bfloat16", "float32")


def decode_cases(dim: int, dtype: str) -> Iterator[tuple[str, Case, bool]]:
    """Give a few cases of which each has something of its own: name, case, whether the mask aligns to lengths."""

    def case(*shape: int, **options: object) -> Case:
        return make_case(*shape, dtype=dtype, **options)

    yield "one split", case(2, 1, 177, 4, 2, dim, causal=True), True
    yield "splits", case(2, 2, 1000, 4, 2, dim, causal=True), True
    for groups, seq_q in ((3, 2), (3, 8), (8, 16)):
        options = {"causal": True, "kv_lengths": [290]}
        yield f"{groups * seq_q} rows", case(1, seq_q, 300, 2 * groups, 2, dim - 8, **options), True
    for head_dim in (17, 20):
        for seq_k in (90, 600):
            yield f"rows of {head_dim}", case(2, 3, seq_k, 2, 2, head_dim), True
    for lengths in ([0, 1000], [1, 0], [64, 129]):
        yield "empty splits", case(2, 4, 1000, 2, 1, dim, kv_lengths=lengths), True
    yield "window", case(1, 4, 1000, 2, 1, dim, kv_lengths=[900], window=(500, 0)), True
    yield (
        "padded queries",
        case(2, 5, 600, 2, 1, dim, causal=True, q_lengths=[2, 0], kv_lengths=[500, 9]),
        True,
    )
    yield "great scores", case(1, 2, 700, 2, 1, dim, logits=300.0), True
    for align_to_lengths in (True, False):
        yield "every option", everything(dropout_p=0.0, logits=0.5, dtype=dtype), align_to_lengths
    for seed in range(15):
        random = random_decode_case(seed, dtype)
        if random.query.shape[-1] <= dim:
            yield f"random case {seed}", random, True


def checks(kernels: EmulatedDecode, dim: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Give all cases in several orders of threads, then what is counted."""
    for order in ORDERS:
        for dtype in FORMATS:
            for name, case, align_to_lengths in decode_cases(dim, dtype):
                kernels.emulator.configure(order)
                check = partial(check_decode, kernels, case, align_to_lengths)
                yield f"values: {dtype}, {name}, order {order}", check
    for dtype in FORMATS:
        name = f"values: {dtype}, addresses that are not aligned"
        yield name, partial(check_decode_addresses, kernels, dtype)
        yield "counters", partial(check_counts_of_one_split, kernels, dtype, dim, 8)
        yield "counters", partial(check_counts_of_splits, kernels, dtype, dim)


if __name__ == "__main__":
    sys.exit(first_finding(checks(EmulatedDecode(Emulator(Path(sys.argv[1]))), int(sys.argv[2]))))
