"""Forward attention's CUDA kernels in the emulator: values, options, what they count."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.attention_counts import check_forward_counts
from tests.cuda.attention_emulated import check_forward, in_format
from tests.ops.attention_inputs import everything, make_case, random_case

FORMATS = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
DIMS = pytest.mark.parametrize("head_dim", [32, 64, 96, 128])


@FORMATS
@DIMS
@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (64, 65), (65, 63), (100, 177), (130, 77)], ids=str)
def test_lengths_around_tiles(attention, dtype, head_dim, shape):
    for causal in (False, True):
        check_forward(attention, make_case(1, *shape, 2, 1, head_dim, dtype=dtype, causal=causal))


@FORMATS
@pytest.mark.parametrize("head_dim", [1, 3, 8, 17, 40, 72, 100, 120])
def test_other_head_dimensions_are_padded(attention, dtype, head_dim):
    check_forward(attention, make_case(2, 70, 90, 2, 2, head_dim, dtype=dtype))


@FORMATS
@pytest.mark.parametrize("seed", range(3))
def test_every_option_at_once(attention, dtype, seed):
    attention.emulator.configure(seed)
    check_forward(attention, in_format(everything(seed), dtype), seed=12345678901 + seed)


@FORMATS
def test_queries_that_see_no_key(attention, dtype):
    check_forward(attention, make_case(2, 70, 40, 2, 1, 64, dtype=dtype, causal=True, kv_lengths=[0, 30]))
    check_forward(
        attention, make_case(2, 70, 70, 2, 1, 64, dtype=dtype, q_lengths=[0, 65], kv_lengths=[70, 3])
    )


def test_lengths_may_align_the_mask(attention):
    case = make_case(
        2, 70, 90, 2, 1, 32, dtype="bfloat16", causal=True, q_lengths=[70, 11], kv_lengths=[80, 66]
    )
    check_forward(attention, case, align_to_lengths=True)


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_random_cases(attention, first):
    """Every option is on or off by chance; threads and blocks run in another order in each case."""
    for seed in range(first, first + 100):
        case = random_case(seed)
        dtype = ("bfloat16", "float16")[seed % 2]
        attention.emulator.configure(seed)
        try:
            check_forward(attention, in_format(case, dtype), seed=seed * 977)
        except AssertionError as error:
            raise AssertionError(f"random_case({seed}): {error}") from error


def test_results_do_not_depend_on_the_order_of_threads(attention):
    case = in_format(everything(), "bfloat16")
    results = []
    for seed in range(4):
        attention.emulator.configure(seed)
        results.append(attention.run(case, seed=5))
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(value.view("uint32"), other[name].view("uint32"))


@FORMATS
@DIMS
def test_counts_are_those_of_theory(attention, dtype, head_dim):
    check_forward_counts(attention, dtype, head_dim)
