"""Which numbers dropout drops: those of csrc/common/dropout_hash.h in plain Paddle."""

from __future__ import annotations

import numpy as np
import paddle

_GROUP_STEP, _ROW_STEP, _COLUMN_STEP = 0x9E3779B9, 0x85EBCA6B, 0x9E3779B9
_LOW = 0xFFFFFFFF  # the low 32 bits: unsigned 32-bit arithmetic in int64


def draw_seed() -> paddle.Tensor:
    """Draw from Paddle's generator: new in every run of a program too, and repeated with paddle.seed."""
    return paddle.randint(0, 2**31 - 1, [1], "int64")


def keep_mask(
    seed: paddle.Tensor, groups: paddle.Tensor, rows: paddle.Tensor, columns: paddle.Tensor, dropout_p: float
) -> paddle.Tensor:
    """Return which numbers stay.

    Args:
        seed: int64, one number.
        groups: int64; of attention the heads, counted over the batch: batch * num_heads + head.
        rows: int64; of attention the queries within their sequence.
        columns: int64; of attention the keys. The three broadcast to the shape of the result.
        dropout_p: The probability of dropping.
    """
    low, high = seed & _number(_LOW), paddle.bitwise_right_shift(seed, _number(32))
    group = _mix(_mix(_low(low + groups * _number(_GROUP_STEP))) ^ high)
    row = _mix(_low(group + rows * _number(_ROW_STEP)))
    bits = _mix(_low(row + columns * _number(_COLUMN_STEP)))
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
