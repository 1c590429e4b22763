"""CUDA kernels of attention to a cache in the emulator: values, options, what they count."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tests.cuda.attention_decode_counts import check_counts_of_one_split, check_counts_of_splits
from tests.cuda.attention_decode_emulated import (
    EmulatedDecode,
    check_decode,
    check_decode_addresses,
    random_decode_case,
)
from tests.cuda.attention_f32_emulated import make_params_f32
from tests.ops.attention_cases import everything, make_case

FORMATS = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
DIMS = pytest.mark.parametrize("head_dim", [32, 64, 96, 128])


@pytest.fixture(scope="module")
def decode(attention):
    attention.emulator.configure(0)
    return EmulatedDecode(attention.emulator)


@FORMATS
@DIMS
@pytest.mark.parametrize("seq_k", [1, 31, 64, 257, 1000])
def test_lengths_around_tiles_and_splits(decode, dtype, head_dim, seq_k):
    check_decode(decode, make_case(2, 1, seq_k, 4, 2, head_dim, dtype=dtype, causal=True))


@FORMATS
@pytest.mark.parametrize("groups", [1, 3, 8])
@pytest.mark.parametrize("seq_q", [1, 2, 16])
def test_queries_that_share_a_head(decode, dtype, groups, seq_q):
    """1 to 128 rows: tiles of each size, full and not, and several blocks to a key-value head."""
    check_decode(
        decode, make_case(1, seq_q, 300, 2 * groups, 2, 40, dtype=dtype, causal=True, kv_lengths=[290])
    )


@FORMATS
@pytest.mark.parametrize("head_dim", [1, 3, 8, 17, 40, 72, 100, 120])
def test_other_head_dimensions_are_padded(decode, dtype, head_dim):
    for seq_k in (90, 600):
        check_decode(decode, make_case(2, 3, seq_k, 2, 2, head_dim, dtype=dtype))


@FORMATS
def test_arrays_may_start_anywhere(decode, dtype):
    check_decode_addresses(decode, dtype)


@FORMATS
@pytest.mark.parametrize("seed", range(3))
def test_every_option_at_once(decode, dtype, seed):
    decode.emulator.configure(seed)
    options = {"dropout_p": 0.0, "logits": 0.5, "dtype": dtype}
    check_decode(decode, everything(seed, **options), align_to_lengths=seed != 1)


@FORMATS
def test_short_caches_and_empty_ones(decode, dtype):
    """Of four splits most, or all, have no keys; what does not exist is NaN."""
    for lengths in ([0, 1000], [1, 0], [64, 129]):
        for options in ({}, {"causal": True}, {"window": (50, 0)}):
            check_decode(decode, make_case(2, 4, 1000, 2, 1, 64, dtype=dtype, kv_lengths=lengths, **options))


def test_large_scores_are_exact(decode):
    check_decode(decode, make_case(1, 2, 700, 2, 1, 64, logits=1e4))


@FORMATS
@pytest.mark.parametrize("first", range(0, 50, 25))
def test_random_cases(decode, dtype, first):
    """Every option is on or off by chance; threads and blocks run in another order in each case."""
    for seed in range(first, first + 25):
        decode.emulator.configure(seed)
        try:
            check_decode(decode, random_decode_case(seed, dtype))
        except AssertionError as error:
            raise AssertionError(f"random_decode_case({seed}, {dtype!r}): {error}") from error


@FORMATS
def test_results_do_not_depend_on_the_order_of_threads(decode, dtype):
    case = make_case(2, 3, 800, 4, 2, 40, dtype=dtype, causal=True, kv_lengths=[700, 333])
    results = []
    for seed in range(4):
        decode.emulator.configure(seed)
        results.append(decode.run(case))
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(value.view("uint32"), other[name].view("uint32"))


@FORMATS
@DIMS
@pytest.mark.parametrize("groups", [1, 8, 20])
def test_one_split_reads_whole_sectors_once(decode, dtype, head_dim, groups):
    check_counts_of_one_split(decode, dtype, head_dim, groups)


@FORMATS
@DIMS
def test_splits_read_the_cache_once(decode, dtype, head_dim):
    check_counts_of_splits(decode, dtype, head_dim)


def test_a_short_cache_is_all_that_is_read(decode):
    count = {}
    for length in (512, 1024):
        decode.emulator.take_counters()
        decode.run(make_case(1, 1, 1024, 2, 2, 64, kv_lengths=[length]))
        count[length] = decode.emulator.take_counters()["global_read_bytes"]
    assert count[1024] - count[512] == 2 * 4 * 2 * 512 * 64


def test_unsupported_parameters_are_refused(decode):
    def error_of(p):
        return decode.function(ctypes.byref(p), None)

    p, _ = make_params_f32(make_case(1, 2, 2, 1, 1, 129), 0)
    assert error_of(p) == b"head_dim: expected at most 128 on a GPU"
    p, arrays = make_params_f32(make_case(1, 2, 2, 1, 1, 8, dropout_p=0.5), 0)
    assert error_of(p) == b"dropout_p: expected 0, a cache is not for training"
    p.dropout_p, p.cu_seqlens_q = 0.0, arrays["lse"].ctypes.data
    assert error_of(p) == b"cu_seqlens: expected none, a cache is not packed"
