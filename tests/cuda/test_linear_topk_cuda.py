"""The CUDA kernels of linear_topk in the emulator: values, order, options, what they count."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tests.cuda.attention_emulated import DTYPES
from tests.cuda.linear_topk_counts import SHAPES as COUNTED
from tests.cuda.linear_topk_counts import check_counts
from tests.cuda.linear_topk_emulated import MOST_K, Params, check, random_case
from tests.ops.linear_topk_cases import Case, make_case, run

FORMATS = pytest.mark.parametrize("dtype", list(DTYPES))


@pytest.fixture(autouse=True)
def _threads_in_their_order(topk):
    topk.emulator.configure(0)


@FORMATS
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1, 1), (1, 8, 16, 16), (5, 65, 127, 3), (32, 64, 128, 4), (33, 64, 129, 5), (128, 40, 300, 16),
     (129, 16, 257, 1), (2, 24, 5003, 10), (200, 7, 1000, 8)],
    ids=str,
)  # fmt: skip
def test_sizes_around_tiles(topk, dtype, sizes):
    for layout in ("vd", "dv"):
        check(topk, make_case(*sizes, layout=layout), dtype)
        check(topk, make_case(*sizes, layout=layout, has_bias=True, softcap=3.0, is_log=True), dtype)


@pytest.mark.parametrize("first", range(0, 150, 50))
def test_random_cases(topk, first):
    """Threads and blocks run in another order in each case."""
    for seed in range(first, first + 50):
        topk.emulator.configure(seed)
        check(topk, random_case(seed), list(DTYPES)[seed % 3])


@FORMATS
@pytest.mark.parametrize("k", [1, 4, 5, 16])
def test_equal_logits_are_in_the_order_of_classes(topk, dtype, k):
    rng = np.random.default_rng(k)
    for rows in (3, 40):
        weight = rng.integers(-1, 2, (400, 4)).astype("float32")
        hidden = rng.integers(-1, 2, (rows, 4)).astype("float32")
        case = Case(hidden, weight, None, k)
        prob, index = topk.run(case, dtype)
        of_cpu, index_of_cpu = run(case, "fused")
        np.testing.assert_array_equal(index, index_of_cpu)
        expected = np.argsort(-(hidden @ weight.T), axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(index, expected)
        np.testing.assert_allclose(prob, of_cpu, rtol=1e-5)


@FORMATS
@pytest.mark.parametrize("possible", [(150, 7), (150, 199)], ids=str)
def test_impossible_classes_come_last_in_their_order(topk, dtype, possible):
    """Also if a warp has nothing else: (150, 199) leave the first one without a possible class."""
    bias = np.full(200, -np.inf, "float32")
    bias[list(possible)] = 1.0, 0.0
    case = Case(np.zeros((35, 8), "float32"), np.zeros((200, 8), "float32"), bias, 6)
    prob, index = topk.run(case, dtype)
    assert (index == [*possible, 0, 1, 2, 3]).all()
    assert (prob[:, 2:] == 0.0).all()
    np.testing.assert_array_equal(index, run(case, "fused")[1])


@FORMATS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_softmax_that_is_not_defined_is_nan_with_the_first_classes(topk, dtype, value):
    case = make_case(40, 8, 300, 5, has_bias=True)
    if np.isneginf(value):
        case.bias[:] = value
    else:
        case.bias[200] = value
    prob, index = topk.run(case, dtype)
    assert np.isnan(prob).all()
    assert (index == np.arange(5)).all()
    np.testing.assert_array_equal(index, run(case, "fused")[1])


@FORMATS
def test_a_nan_spoils_its_own_row_only(topk, dtype):
    case = make_case(40, 8, 300, 5)
    case.hidden[3, 2] = np.nan
    assert np.flatnonzero(np.isnan(topk.run(case, dtype)[0]).any(axis=1)).tolist() == [3]


@FORMATS
@pytest.mark.parametrize("rows", [20, 140])
def test_results_do_not_depend_on_the_order_of_threads(topk, dtype, rows):
    case, results = make_case(rows, 40, 1025, 7), []
    for seed in range(4):
        topk.emulator.configure(seed)
        results.append(topk.run(case, dtype))
    for prob, index in results[1:]:
        assert prob.tobytes() == results[0][0].tobytes()
        assert index.tobytes() == results[0][1].tobytes()


@FORMATS
@pytest.mark.parametrize("layout", ["vd", "dv"])
@pytest.mark.parametrize("shape", COUNTED, ids=str)
def test_counts_are_those_of_theory(topk, dtype, layout, shape):
    check_counts(topk, dtype, layout, shape)


@FORMATS
@pytest.mark.parametrize("layout", ["vd", "dv"])
def test_arrays_may_begin_anywhere(topk, dtype, layout):
    """Lengths of rows are multiples of 16 bytes, addresses are not."""
    for rows in (20, 77):
        check(topk, make_case(rows, 72, 304, 5, layout=layout), dtype, shift=4 if dtype == "float32" else 2)


def test_scratch_memory_does_not_grow_with_rows_times_classes(topk):
    def size(rows: int, classes: int) -> int:
        p = Params(rows=rows, hidden_size=64, classes=classes, k=MOST_K, dtype=DTYPES["bfloat16"])
        return topk.emulator.library.paddle_infra_linear_topk_cuda_workspace(ctypes.byref(p))

    assert size(10_000, 1_000_000) == size(10_000, 100_000)
    assert size(10_000, 100_000) < 0.02 * 2 * 10_000 * 100_000


def test_errors_say_what_is_expected(topk):
    for k, classes in ((0, 9), (17, 99), (5, 4)):
        p = Params(rows=1, hidden_size=1, classes=classes, k=k)
        error = topk.emulator.library.paddle_infra_linear_topk_cuda(ctypes.byref(p), None)
        assert error == b"k: expected 1 to 16 on a GPU, and not more than there are classes"
