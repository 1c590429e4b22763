"""Backward attention's CUDA kernels in the emulator: values, options, what they count."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.attention_counts import check_backward_counts, check_bias_counts
from tests.cuda.attention_emulated import (
    Strides,
    check_addresses,
    check_backward,
    check_bias_sums,
    in_format,
    make_params,
    pack,
)
from tests.cuda.emulator import aligned_copy
from tests.cuda.test_attention_fwd import DIMS, FORMATS
from tests.ops.attention_cases import everything, make_case
from tests.ops.attention_fuzz import random_case

#: Every way in which a bias may be broadcast: 1 is a broadcast axis.
PATTERNS = [tuple(int(number >> axis & 1) for axis in range(4)) for number in range(16)]


def assert_same(found, expected):
    """Assert that all gradients are the same, bit for bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(np.ascontiguousarray(found[name]).view("uint32"), value.view("uint32")), name


@FORMATS
@DIMS
@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (65, 63), (100, 177), (130, 77)], ids=str)
def test_lengths_around_tiles(attention, dtype, head_dim, shape):
    for causal in (False, True):
        check_backward(attention, make_case(1, *shape, 2, 1, head_dim, dtype=dtype, causal=causal))


@pytest.mark.parametrize("head_dim", [32, 96])
@pytest.mark.parametrize("window", [(1, 0), (0, 1), (0, 0), (33, 0), (0, 33)], ids=str)
def test_windows_that_reach_one_row_into_a_tile(attention, head_dim, window):
    check_backward(attention, make_case(1, 130, 130, 1, 1, head_dim, dtype="bfloat16", window=window))


@FORMATS
@pytest.mark.parametrize("head_dim", [1, 3, 8, 17, 40, 72, 100, 120])
def test_other_head_dimensions_are_padded(attention, dtype, head_dim):
    check_backward(attention, make_case(2, 70, 90, 2, 2, head_dim, dtype=dtype))


@FORMATS
@pytest.mark.parametrize("seed", range(3))
def test_every_option_at_once(attention, dtype, seed):
    attention.emulator.configure(seed)
    check_backward(attention, in_format(everything(seed), dtype), seed=12345678901 + seed)


@FORMATS
@pytest.mark.parametrize("head_dim", [64, 128])
def test_every_option_at_once_in_long_sequences(attention, dtype, head_dim):
    options = {"bias": (1, 4, 150, 140), "causal": True, "window": (90, 5), "softcap": 2.5, "dropout_p": 0.3,
               "alibi": (4,), "kv_lengths": [140, 100], "q_lengths": [110, 150]}  # fmt: skip
    check_backward(attention, make_case(2, 150, 140, 4, 2, head_dim, dtype=dtype, **options), seed=7)


@pytest.mark.parametrize("shared", PATTERNS, ids=str)
def test_bias_of_every_shape(attention, shared):
    """What is broadcast is added up: over batch, heads, queries, keys."""
    sizes = (2, 4, 70, 130)
    bias = tuple(1 if is_shared else size for is_shared, size in zip(shared, sizes, strict=True))
    case = make_case(2, 70, 130, 4, 2, 32, dtype="bfloat16", bias=bias, causal=True, kv_lengths=[130, 77])
    check_backward(attention, case)


@pytest.mark.parametrize("shared", PATTERNS[1:], ids=str)
def test_gradient_of_a_broadcast_bias_is_the_sum_of_all(attention, shared):
    sizes = (2, 4, 130, 130)
    check_bias_sums(
        attention, [1 if is_shared else size for is_shared, size in zip(shared, sizes, strict=True)]
    )


@FORMATS
def test_queries_that_see_no_key(attention, dtype):
    """Their gradients are zeros, not what happens to be in memory."""
    cases = [
        make_case(2, 70, 40, 2, 1, 64, dtype=dtype, causal=True, kv_lengths=[0, 30]),
        make_case(2, 70, 70, 2, 1, 64, dtype=dtype, q_lengths=[0, 65], kv_lengths=[70, 3]),
        make_case(1, 70, 70, 2, 1, 64, dtype=dtype, mask=(1, 1, 70, 70)),
    ]
    cases[-1].bias[:, :, 5:20] = False
    for case in cases:
        check_backward(attention, case)
    found = attention.run_both(cases[0])
    for name in ("query", "key", "value"):
        assert not found[name][0].any(), name
    assert not found["query"][1, :30].any()
    assert not found["key"][1, 30:].any()


def test_lengths_may_align_the_mask(attention):
    case = make_case(
        2, 70, 90, 2, 1, 32, dtype="bfloat16", causal=True, q_lengths=[70, 11], kv_lengths=[80, 66]
    )
    check_backward(attention, case, align_to_lengths=True)


def test_a_missing_gradient_of_lse_is_zero(attention):
    case = make_case(1, 70, 90, 2, 1, 32, dtype="bfloat16")
    found = attention.differentiate(*make_params(case, 0, False), case, has_grad_lse=False)
    case.grad_lse[...] = 0.0
    assert_same(found, attention.run_both(case))


@pytest.mark.parametrize("head_dim", [64, 20])
def test_packed_sequences_are_like_separate_ones(attention, head_dim):
    """One has no queries, one no keys, one is longer than a tile."""
    options = {"causal": True, "alibi": (4,)}
    lengths = [(70, 90), (0, 5), (33, 33), (5, 0), (130, 66)]
    cases = [
        make_case(1, *each, 4, 2, head_dim, seed=seed, dtype="bfloat16", **options)
        for seed, each in enumerate(lengths)
    ]
    for case in cases:
        case.alibi_slopes = cases[0].alibi_slopes
    separate = [attention.run_both(case) for case in cases]
    expected = {name: np.concatenate([found[name] for found in separate], axis=1) for name in separate[0]}
    assert_same(attention.differentiate(*pack(cases)), expected)


def test_tensors_may_lie_in_different_ways(attention):
    """Values and their gradient have strides of their own."""
    case = make_case(2, 70, 90, 4, 2, 32, dtype="bfloat16")
    p, arrays = make_params(case, 0, False)
    arrays["v"] = aligned_copy(arrays["v"].transpose(0, 2, 1, 3))
    p.v, p.v_stride = arrays["v"].ctypes.data, Strides(2 * 90 * 32, 32, 90 * 32)
    found = attention.differentiate(p, arrays, case)
    found["value"] = found["value"].reshape(2, 2, 90, 32).transpose(0, 2, 1, 3)
    assert_same(found, attention.run_both(case))


def test_arrays_may_start_anywhere(attention):
    check_addresses(attention)


def test_empty_axes(attention):
    """Without queries or keys there is nothing to differentiate: zeros, and no launch of empty grids."""
    for shape in ((0, 70), (70, 0)):
        found = attention.run_both(make_case(2, *shape, 2, 1, 32, dtype="bfloat16", bias=(1, 2, 1, 1)))
        for name, value in found.items():
            assert not value.any(), name
        assert attention.emulator.take_counters()["launches"] == (2 if shape[0] == 0 else 3)


@FORMATS
@pytest.mark.parametrize("scale", [0.125, -0.125])
def test_large_scores(attention, dtype, scale):
    """Scores of thousands: one key has all the weight, and gradients stay finite."""
    check_backward(attention, make_case(1, 70, 90, 2, 1, 64, dtype=dtype, logits=512.0, scale=scale))


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_random_cases(attention, first):
    """Every option is on or off by chance; threads and blocks run in another order in each case."""
    for seed in range(first, first + 50):
        case = random_case(seed)
        dtype = ("bfloat16", "float16")[seed % 2]
        attention.emulator.configure(seed)
        try:
            check_backward(attention, in_format(case, dtype), seed=seed * 977)
        except AssertionError as error:
            raise AssertionError(f"random_case({seed}): {error}") from error


def test_results_do_not_depend_on_the_order_of_threads(attention):
    cases = [in_format(everything(), "bfloat16"),
             make_case(2, 130, 140, 4, 2, 96, dtype="float16", bias=(130, 1), causal=True)]  # fmt: skip
    for case in cases:
        results = []
        for seed in range(4):
            attention.emulator.configure(seed)
            results.append(attention.run_both(case, seed=5))
        for other in results[1:]:
            assert_same(other, results[0])


@FORMATS
@DIMS
def test_counts_are_those_of_theory(attention, dtype, head_dim):
    check_backward_counts(attention, dtype, head_dim)


@FORMATS
@DIMS
def test_counts_of_the_gradient_of_a_bias(attention, dtype, head_dim):
    check_bias_counts(attention, dtype, head_dim)
