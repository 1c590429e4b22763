"""Checks a library with attention's float32 kernels: ``python -m tests.cuda.attention_f32_probe LIBRARY HEAD_DIM``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.cuda.attention_f32_counts import check_f32_backward_counts, check_f32_forward_counts
from tests.cuda.attention_f32_emulated import EmulatedFloat32Attention, check_f32, check_f32_addresses
from tests.cuda.emulator import Emulator
from tests.cuda.mutation_probe import first_finding
from tests.ops.attention_gold import Case
from tests.ops.attention_inputs import everything, make_case, random_case

ORDERS = (0, 1, 7)


def f32_cases(dim: int) -> Iterator[tuple[str, Case, bool, int]]:
    """Give a few cases of which each has something of its own: name, case, mask aligned to lengths, gap of rows."""
    yield "tails of tiles", make_case(1, 70, 97, 2, 2, dim), False, 0
    yield "causal, heads share keys", make_case(2, 70, 90, 4, 2, dim, causal=True), False, 0
    yield "window", make_case(1, 100, 90, 1, 1, dim, window=(33, 1)), False, 0
    for pad in (1, 4):
        yield f"rows {pad} apart", make_case(2, 36, 40, 2, 1, dim - 4, causal=True), False, pad
    yield "rows that are not aligned", make_case(2, 35, 40, 2, 2, 17), False, 0
    yield "great scores", make_case(1, 40, 70, 2, 1, dim, logits=1e4), False, 0
    yield "queries without keys", make_case(2, 70, 40, 2, 1, dim, causal=True, kv_lengths=[0, 30]), False, 0
    yield "padded queries", make_case(2, 70, 70, 2, 1, dim, q_lengths=[0, 65], kv_lengths=[70, 3]), False, 0
    yield "dropout", make_case(2, 40, 70, 4, 2, dim, dropout_p=0.4), False, 0
    lengths = {"q_lengths": [70, 11], "kv_lengths": [80, 66]}
    yield "aligned to lengths", make_case(2, 70, 90, 2, 1, 32, causal=True, **lengths), True, 0
    for bias in ((2, 4, 70, 90), (1, 1, 1, 90), (1, 4, 70, 1), (2, 1, 1, 1)):
        case = make_case(2, 70, 90, 4, 2, 16, bias=bias, window=(40, 10))
        yield f"gradient of a bias of {bias}", case, False, 0
    yield "every option", everything(), False, 0
    for seed in range(12):
        random = random_case(seed)
        if random.query.shape[-1] <= dim:
            yield f"random case {seed}", random, False, 0


def checks(kernels: EmulatedFloat32Attention, dim: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Give all cases in several orders of threads, then what is counted."""
    for order in ORDERS:
        for name, case, align_to_lengths, pad in f32_cases(dim):
            kernels.emulator.configure(order)
            check = partial(check_f32, kernels, case, 977, align_to_lengths, pad)
            yield f"values: {name}, order {order}", check
    yield "values: addresses that are not aligned", partial(check_f32_addresses, kernels)
    yield "counters", partial(check_f32_forward_counts, kernels, dim, True)
    yield "counters", partial(check_f32_backward_counts, kernels, dim)


if __name__ == "__main__":
    sys.exit(first_finding(checks(EmulatedFloat32Attention(Emulator(Path(sys.argv[1]))), int(sys.argv[2]))))
