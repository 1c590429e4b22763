"""Which attention weights are dropped, in both implementations and in the backward pass."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import paddle
import pytest

from paddle_infra._core import extension
from paddle_infra.ops import attention
from tests.ops.attention_cases import check, drawn_seed, make_case
from tests.ops.attention_gold import dropout_bits

IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])


def tensor(values, dtype="float32"):
    return paddle.to_tensor(np.array(values, dtype))


def identity_values(impl, dropout_p, seed, heads=2, size=64):
    """The weights after dropout: values are the identity matrix, all scores equal."""
    value = paddle.eye(size).reshape([1, size, 1, size]).tile([2, 1, heads, 1])
    query = paddle.zeros([2, size, heads, size])
    paddle.seed(seed)
    return attention(query, query, value, dropout_p=dropout_p, impl=impl).transpose([0, 2, 1, 3]).numpy()


@IMPLS
@pytest.mark.parametrize("dropout_p", [0.1, 0.5, 0.95])
def test_dropout_drops_what_the_documented_hash_says_and_scales_the_rest(impl, dropout_p):
    weights = identity_values(impl, dropout_p, 9) * 64
    bits = dropout_bits(drawn_seed(9), 4, 64, 64).reshape(weights.shape)
    kept = bits >= int(float(np.float32(dropout_p)) * 2**32)
    np.testing.assert_allclose(weights, kept / (1 - dropout_p), rtol=1e-5)
    share, deviation = kept.mean(), math.sqrt(dropout_p * (1 - dropout_p) / kept.size)
    assert abs(share - (1 - dropout_p)) < 4 * deviation
    for axis in range(4):  # no row, column or head is dropped more than others
        means = kept.mean(axis=tuple(other for other in range(4) if other != axis))
        assert np.abs(means - share).max() < 5 * deviation * math.sqrt(len(means))


def test_the_hash_is_that_of_the_compiled_library():
    function = ctypes.CDLL(str(extension.require().path)).paddle_infra_attention_dropout_bits
    function.argtypes, function.restype = [ctypes.c_int64] * 4, ctypes.c_uint32
    for seed in (0, 12345, 2**31 - 2, 2**40 + 7, -3):
        bits = dropout_bits(seed, 3, 4, 5)
        for index in np.ndindex(bits.shape):
            assert function(seed, *index) == bits[index]


@IMPLS
def test_dropout_repeats_with_the_seed_and_is_new_in_every_call(impl):
    first, again, other = (identity_values(impl, 0.5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.4
    paddle.seed(1)
    x = paddle.ones([1, 20, 2, 8])
    assert (
        attention(x, x, x, dropout_p=0.5, impl=impl) != attention(x, x, x, dropout_p=0.5, impl=impl)
    ).any()


@IMPLS
def test_without_training_nothing_is_dropped_or_drawn(impl):
    x = paddle.rand([1, 5, 2, 8])
    plain = attention(x, x, x, impl=impl).numpy()
    np.testing.assert_array_equal(attention(x, x, x, dropout_p=0.5, training=False, impl=impl).numpy(), plain)
    paddle.seed(4)
    expected = paddle.rand([1]).item()
    paddle.seed(4)
    attention(x, x, x, dropout_p=0.0, impl=impl)
    assert paddle.rand([1]).item() == expected


def test_gradients_use_the_same_mask():
    for dropout_p in (0.2, 0.7):
        check(make_case(2, 70, 90, 4, 2, dropout_p=dropout_p), seed=3)
