"""Checks kernels of the head for float32 numbers: ``python -m tests.cuda.linear_cross_entropy_f32_probe LIBRARY``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tests.cuda.emulator import Emulator
from tests.cuda.linear_cross_entropy_counts import check_float_counts
from tests.cuda.linear_cross_entropy_emulated import EmulatedHead, check_float, random_case
from tests.cuda.mutation_probe import first_finding
from tests.ops.linear_cross_entropy_cases import EVERYTHING, Case, make_case


def cases() -> Iterator[tuple[str, Case]]:
    """Give a few cases of which each has something of its own."""
    yield "odd sizes", make_case(33, 70, 301)
    yield "ignored rows", make_case(33, 7, 65, ignored=0.3, ignore_index=2)
    yield "no rows count", make_case(7, 3, 5, ignored=1.0)
    yield "weights", make_case(33, 7, 65, class_weight=True, token_weight=True)
    yield "smoothing", make_case(33, 7, 301, class_weight=True, label_smoothing=0.2)
    yield "z-loss", make_case(33, 7, 65, z_loss=1e-2)
    yield "softcap", make_case(33, 7, 65, softcap=3.0)
    yield "every option", make_case(33, 7, 301, **EVERYTHING)
    yield "chunks of rows", make_case(300, 3, 8209)
    for seed in range(8):
        yield f"random case {seed}", random_case(seed)


def check_gradient_from_above(head: EmulatedHead) -> None:
    """Of each row its own."""
    case = make_case(20, 8, 65, reduction="none")
    above = np.float32(2.0) ** (np.arange(20) % 5 - 2)
    scaled, plain = head.run(case, above=above)["hidden"], head.run(case)["hidden"]
    assert (scaled == plain * above[:, None]).all()


def checks(head: EmulatedHead) -> Iterator[tuple[str, Callable[[], None]]]:
    """Give all cases, threads in another order in each; then what is counted."""
    for order, (name, case) in enumerate(cases()):
        head.emulator.configure(order)
        yield f"values: {name}", partial(check_float, head, case)
    yield "values: gradient from above", partial(check_gradient_from_above, head)
    yield "counters", partial(check_float_counts, head)


if __name__ == "__main__":
    sys.exit(first_finding(checks(EmulatedHead(Emulator(Path(sys.argv[1]))))))
