"""Checks the head in 16 bits: ``python -m tests.cuda.linear_cross_entropy_probe LIBRARY FORMAT IS_VD``.

The last two as csrc/instances.json has them: the one instance that was compiled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tests.cuda.emulator import Emulator
from tests.cuda.linear_cross_entropy_counts import SHAPES, check_half_counts
from tests.cuda.linear_cross_entropy_emulated import EmulatedHead, check_half, random_case
from tests.cuda.mutation_probe import first_finding
from tests.ops.linear_cross_entropy_cases import EVERYTHING, Case, make_case

ORDERS = (1, 7)
LAYOUTS = {"true": "vd", "false": "dv"}


def cases(layout: str) -> Iterator[tuple[str, Case, int]]:
    """Give a few cases of which each has something of its own: name, case, bytes that arrays are shifted by."""

    def case(*shape: int, **options: object) -> Case:
        return make_case(*shape, **{**options, "weight_layout": layout})

    yield "tails of tiles", case(130, 72, 304), 0
    yield "rows that are not aligned", case(77, 50, 301, reduction="none"), 0
    yield "arrays that are not aligned", case(77, 72, 304), 2
    yield "few rows", case(20, 264, 264, bias=False), 0
    yield "ignored rows", case(77, 24, 301, ignored=0.3, ignore_index=2), 0
    yield "no rows count", case(40, 24, 65, ignored=1.0, token_weight=True), 0
    yield "token weights", case(77, 24, 65, token_weight=True, reduction="sum"), 0
    yield "token weights, mean", case(77, 24, 65, token_weight=True, class_weight=True), 0
    yield "class weights", case(40, 24, 301, class_weight=True, reduction="sum"), 0
    yield "smoothing", case(40, 24, 301, label_smoothing=0.2, class_weight=True), 0
    yield "z-loss", case(40, 24, 129, z_loss=1e-2), 0
    yield "softcap", case(40, 24, 129, softcap=3.0), 0
    yield "large logits", case(97, 64, 311, scale=1e4, label_smoothing=0.1), 0
    yield "products in parts", case(1100, 16, 1030), 0
    yield "every option", case(130, 50, 301, **EVERYTHING), 0
    yield "few rows, every option", case(20, 50, 301, **EVERYTHING), 0
    for seed in range(12):
        random = random_case(seed, (150, 100, 400))
        random.options["weight_layout"] = layout
        yield f"random case {seed}", random, 0


def large_cases(layout: str) -> Iterator[tuple[str, Case, int]]:
    """Give those that take seconds: so many classes that a block has several tiles, two chunks of rows."""
    options = {"label_smoothing": 0.1, "weight_layout": layout}
    yield "several tiles in a block", make_case(4, 8, 66_000, **options), 0
    yield "chunks of rows", make_case(130, 8, 65_600, **options), 0


def check_gradient_from_above(head: EmulatedHead, dtype: str, layout: str) -> None:
    """Of each row its own."""
    case = make_case(40, 8, 65, reduction="none", weight_layout=layout)
    above = np.float32(2.0) ** (np.arange(40) % 5 - 2)
    scaled, plain = head.run(case, dtype, above)["hidden"], head.run(case, dtype)["hidden"]
    assert (scaled == plain * above[:, None]).all()


def check_orders(head: EmulatedHead, dtype: str, case: Case) -> None:
    """The same bits in several orders of threads, warps and blocks."""
    head.emulator.configure(0)
    first = head.run(case, dtype)
    for order in ORDERS:
        head.emulator.configure(order)
        for name, value in head.run(case, dtype).items():
            assert value.tobytes() == first[name].tobytes(), name
    head.emulator.configure(0)


def checks(head: EmulatedHead, dtype: str, layout: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Give all cases with threads in their order, then in others; what is counted; what takes longest."""
    head.emulator.configure(0)
    for name, case, shift in cases(layout):
        yield f"values: {name}", partial(check_half, head, case, dtype, shift)
    yield "values: gradient from above", partial(check_gradient_from_above, head, dtype, layout)
    for shape in SHAPES:
        yield "counters", partial(check_half_counts, head, dtype, layout, shape)
    for rows in (20, 130):
        case = make_case(rows, 50, 301, **{**EVERYTHING, "weight_layout": layout})
        yield f"order of threads, {rows} rows", partial(check_orders, head, dtype, case)
    for name, case, shift in large_cases(layout):
        yield f"values: {name}", partial(check_half, head, case, dtype, shift)


def main(library: str, dtype: str, is_vd: str) -> int:
    return first_finding(checks(EmulatedHead(Emulator(Path(library))), dtype.lower(), LAYOUTS[is_vd]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
