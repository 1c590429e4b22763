"""Which attention weights dropout drops: the numbers of csrc/attention/attention_dropout.h in plain Paddle."""

from __future__ import annotations

import numpy as np
import paddle

_HEAD_STEP, _QUERY_STEP, _KEY_STEP = 0x9E3779B9, 0x85EBCA6B, 0x9E3779B9
_LOW = 0xFFFFFFFF  # the low 32 bits: unsigned 32-bit arithmetic in int64


def draw_seed() -> paddle.Tensor:
    """Draw from Paddle's generator: new in every run of a program too, and repeated with paddle.seed."""
    return paddle.randint(0, 2**31 - 1, [1], "int64")


def keep_mask(
    seed: paddle.Tensor, heads: paddle.Tensor, queries: paddle.Tensor, keys: paddle.Tensor, dropout_p: float
) -> paddle.Tensor:
    """Return which weights stay.

    Args:
        seed: int64, one number.
        heads: int64 numbers of the heads, counted over the batch: batch * num_heads + head.
        queries: int64 numbers of the queries within their sequence.
        keys: The same of the keys. The three broadcast to the shape of the result.
        dropout_p: The probability of dropping.
    """
    low, high = seed & _number(_LOW), paddle.bitwise_right_shift(seed, _number(32))
    head = _mix(_mix(_low(low + heads * _number(_HEAD_STEP))) ^ high)
    row = _mix(_low(head + queries * _number(_QUERY_STEP)))
    bits = _mix(_low(row + keys * _number(_KEY_STEP)))
    return bits >= _number(int(float(np.float32(dropout_p)) * 2.0**32))


def _number(value: int) -> paddle.Tensor:
    # Programs multiply by Python numbers in floating point.
    return paddle.full([], value, "int64")


def _low(x: paddle.Tensor) -> paddle.Tensor:
    return x & _number(_LOW)


def _mix(x: paddle.Tensor) -> paddle.Tensor:
    x = x ^ paddle.bitwise_right_shift(x, _number(16))
    x = _low(x * _number(0x7FEB352D))
    x = x ^ paddle.bitwise_right_shift(x, _number(15))
    x = _low(x * _number(0x846CA68B))
    return x ^ paddle.bitwise_right_shift(x, _number(16))
