"""Float32 attention's CUDA kernels and their gradients in the emulator: values, options, what they count."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

from tests.cuda.attention_f32_counts import check_f32_backward_counts, check_f32_forward_counts
from tests.cuda.attention_f32_emulated import (
    EmulatedFloat32Attention,
    check_f32,
    check_f32_addresses,
    check_results,
    make_params_f32,
)
from tests.ops.attention_cases import everything, make_case
from tests.ops.attention_fuzz import random_case
from tests.ops.attention_gold import Gold, gold

DIMS = pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 256])


@pytest.fixture(scope="module")
def kernels(attention):
    attention.emulator.configure(0)
    return EmulatedFloat32Attention(attention.emulator)


@DIMS
@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (65, 63), (33, 97), (130, 77)], ids=str)
def test_lengths_around_tiles(kernels, head_dim, shape):
    for causal in (False, True):
        check_f32(kernels, make_case(1, *shape, 2, 1, head_dim, causal=causal))


@pytest.mark.parametrize("head_dim", [1, 3, 8, 17, 40, 72, 100, 120, 129, 192])
def test_other_head_dimensions_are_padded(kernels, head_dim):
    check_f32(kernels, make_case(2, 35, 40, 2, 2, head_dim))


@pytest.mark.parametrize("pad", [1, 4])
def test_rows_may_be_apart(kernels, pad):
    """With 1 number between them rows are not aligned; nothing between them is read or written."""
    check_f32(kernels, make_case(2, 35, 40, 4, 2, 32, causal=True, bias=(35, 40)), pad=pad)
    case = make_case(1, 20, 32, 2, 1, 32)  # whole entries of the batch are aligned, rows are not
    p, arrays = make_params_f32(case, 0, pad=pad)
    kernels.call(p, arrays)
    for name in ("o", "grad_q", "grad_k", "grad_v"):
        assert np.isnan(arrays[name][..., 32:]).all()


def test_arrays_may_start_anywhere(kernels):
    check_f32_addresses(kernels)


@pytest.mark.parametrize("seed", range(3))
def test_every_option_at_once(kernels, seed):
    kernels.emulator.configure(seed)
    check_f32(kernels, everything(seed), seed=12345678901 + seed)


@pytest.mark.parametrize("shape", list(itertools.product((1, 2), (1, 4), (1, 70), (1, 90))), ids=str)
def test_gradient_of_a_bias_that_is_broadcast(kernels, shape):
    check_f32(kernels, make_case(2, 70, 90, 4, 2, 16, bias=shape, window=(40, 10)))


def test_queries_that_see_no_key(kernels):
    check_f32(kernels, make_case(2, 70, 40, 2, 1, 64, causal=True, kv_lengths=[0, 30], bias=(2, 70, 40)))
    check_f32(kernels, make_case(2, 70, 70, 2, 1, 64, q_lengths=[0, 65], kv_lengths=[70, 3]))


def test_lengths_may_align_the_mask(kernels):
    case = make_case(2, 70, 90, 2, 1, 32, causal=True, q_lengths=[70, 11], kv_lengths=[80, 66])
    check_f32(kernels, case, align_to_lengths=True)


def test_large_scores_are_exact(kernels):
    for options in ({}, {"bias": (1, 1, 40, 70)}):
        check_f32(kernels, make_case(1, 40, 70, 2, 1, 64, logits=1e4, **options))


def test_without_gradient_of_lse(kernels):
    case = make_case(1, 33, 40, 2, 1, 16, causal=True)
    case.grad_lse[...] = 0.0
    check_results(kernels.run(case, grad_lse=False), gold(case))


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("causal", [False, True])
def test_packed_sequences(kernels, causal, dropout_p):
    """They are what padded ones are whose masks are aligned to their lengths."""
    lengths = np.array([(33, 33), (1, 70), (64, 20), (0, 3)])
    case = make_case(4, 64, 70, 4, 2, 20, causal=causal, dropout_p=dropout_p,
                     q_lengths=lengths[:, 0], kv_lengths=lengths[:, 1])  # fmt: skip
    true = gold(case, seed=11, align_to_lengths=True)
    for b, found in enumerate(kernels.run_packed(case, seed=11)):
        q, k = lengths[b]
        rows = {"out": np.s_[b : b + 1, :q], "lse": np.s_[b : b + 1, :, :q], "query": np.s_[b : b + 1, :q],
                "key": np.s_[b : b + 1, :k], "value": np.s_[b : b + 1, :k]}  # fmt: skip
        check_results(
            found, Gold({name: true.results[name][at] for name, at in rows.items()}, true.magnitudes)
        )


@pytest.mark.parametrize("first", range(0, 150, 50))
def test_random_cases(kernels, first):
    """Every option is on or off by chance; threads and blocks run in another order in each case."""
    for seed in range(first, first + 50):
        kernels.emulator.configure(seed)
        try:
            check_f32(kernels, random_case(seed), seed=seed * 977)
        except AssertionError as error:
            raise AssertionError(f"random_case({seed}): {error}") from error


def test_results_do_not_depend_on_the_order_of_threads(kernels):
    for case in (everything(), make_case(2, 70, 90, 4, 2, 40, bias=(1, 1, 1, 90))):
        results = []
        for seed in range(4):
            kernels.emulator.configure(seed)
            results.append(kernels.run(case, seed=5))
        for other in results[1:]:
            for name, value in results[0].items():
                np.testing.assert_array_equal(value.view("uint32"), other[name].view("uint32"), err_msg=name)


@DIMS
@pytest.mark.parametrize("causal", [False, True])
def test_counts_of_forward_are_those_of_theory(kernels, head_dim, causal):
    check_f32_forward_counts(kernels, head_dim, causal)


@DIMS
def test_counts_of_backward_are_those_of_theory(kernels, head_dim):
    check_f32_backward_counts(kernels, head_dim)


def test_unsupported_parameters_are_refused(kernels):
    p, _ = make_params_f32(make_case(1, 2, 2, 1, 1, 257), 0)
    for function in (kernels.forward, kernels.backward):
        assert function(ctypes.byref(p), None) == b"head_dim: expected at most 256 on a GPU"
