"""Checks kernels of linear_topk: ``python -m tests.cuda.linear_topk_probe LIBRARY FORMAT IS_VD``.

The last two as csrc/instances.json has them: the one instance that was compiled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tests.cuda.emulator import Emulator
from tests.cuda.linear_topk_counts import SHAPES, check_counts
from tests.cuda.linear_topk_emulated import EmulatedTopk, check, random_case
from tests.cuda.mutation_probe import first_finding
from tests.ops.linear_topk_cases import Case, make_case

ORDERS = (1, 7)
LAYOUTS = {"true": "vd", "false": "dv"}


def cases(layout: str) -> Iterator[tuple[str, Case, bool]]:
    """Give a few cases of which each has something of its own: name, case, whether arrays are not aligned."""
    case = partial(make_case, layout=layout)
    yield "tails of tiles", case(130, 72, 304, 5), False
    yield "few rows", case(20, 264, 264, 16), False
    yield "rows that are not aligned", case(77, 50, 301, 3, has_bias=True), False
    yield "arrays that are not aligned", case(77, 72, 304, 3), True
    yield "as many as there are classes", case(33, 8, 13, 13), False
    yield "softcap, logarithms", case(33, 24, 129, 4, has_bias=True, softcap=3.0, is_log=True), False
    yield "large logits", case(40, 64, 600, 8, scale=100.0), False
    yield "many parts", case(3, 8, 9000, 10), False
    for seed in range(12):
        random = random_case(seed)
        random.layout = layout
        yield f"random case {seed}", random, False


def check_ties(kernels: EmulatedTopk, dtype: str, layout: str, rows: int, k: int) -> None:
    """Equal logits are in the order of classes."""
    rng = np.random.default_rng(k)
    weight = rng.integers(-1, 2, (400, 4)).astype("float32")
    hidden = rng.integers(-1, 2, (rows, 4)).astype("float32")
    index = kernels.run(Case(hidden, weight, None, k, layout=layout), dtype)[1]
    assert (index == np.argsort(-(hidden @ weight.T), axis=1, kind="stable")[:, :k]).all()


def check_impossible_classes(
    kernels: EmulatedTopk, dtype: str, layout: str, possible: tuple[int, int]
) -> None:
    """Those of logit -infinity come last, in their order."""
    bias = np.full(200, -np.inf, "float32")
    bias[list(possible)] = 1.0, 0.0
    case = Case(np.zeros((35, 8), "float32"), np.zeros((200, 8), "float32"), bias, 6, layout=layout)
    prob, index = kernels.run(case, dtype)
    assert (index == [*possible, 0, 1, 2, 3]).all()
    assert not prob[:, 2:].any()


def check_undefined(kernels: EmulatedTopk, dtype: str, layout: str) -> None:
    """A NaN makes its own row's probabilities NaN, of the first classes."""
    case = make_case(40, 8, 300, 5, layout=layout)
    case.hidden[3, 2] = np.nan
    prob, index = kernels.run(case, dtype)
    assert np.flatnonzero(np.isnan(prob).any(axis=1)).tolist() == [3]
    assert (index[3] == np.arange(5)).all()


def check_orders(kernels: EmulatedTopk, dtype: str, case: Case) -> None:
    """The same bits in several orders of threads, warps and blocks."""
    kernels.emulator.configure(0)
    first = [result.tobytes() for result in kernels.run(case, dtype)]
    for order in ORDERS:
        kernels.emulator.configure(order)
        assert [result.tobytes() for result in kernels.run(case, dtype)] == first
    kernels.emulator.configure(0)


def checks(kernels: EmulatedTopk, dtype: str, layout: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Give all cases with threads in their order, then in others; what is counted; what takes longest."""
    kernels.emulator.configure(0)
    for name, case, is_shifted in cases(layout):
        shift = (4 if dtype == "float32" else 2) if is_shifted else 0
        yield f"values: {name}", partial(check, kernels, case, dtype, shift)
    for rows in (3, 40):
        for k in (1, 4, 5, 16):
            yield f"values: ties, k {k}", partial(check_ties, kernels, dtype, layout, rows, k)
    for possible in ((150, 7), (150, 199)):  # the second leave the first warp without a possible class
        yield (
            "values: impossible classes",
            partial(check_impossible_classes, kernels, dtype, layout, possible),
        )
    yield "values: not a number", partial(check_undefined, kernels, dtype, layout)
    for shape in SHAPES:
        yield "counters", partial(check_counts, kernels, dtype, layout, shape)
    for rows in (20, 140):
        case = make_case(rows, 40, 700, 7, layout=layout)
        yield f"order of threads, {rows} rows", partial(check_orders, kernels, dtype, case)
    # So many classes that a block has several tiles.
    case = make_case(3, 8, 66_000, 5, layout=layout)
    yield "values: several tiles in a block", partial(check, kernels, case, dtype)


def main(library: str, dtype: str, is_vd: str) -> int:
    return first_finding(checks(EmulatedTopk(Emulator(Path(library))), dtype.lower(), LAYOUTS[is_vd]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
