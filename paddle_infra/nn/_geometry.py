"""Lengths and distances of vectors, with gradients that stay finite at zero."""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddle_infra.nn.sizes import size_of

_SMALLEST = 1e-12  # of a squared length: below it, the gradient of a root is cut off


def unit(x: Tensor) -> Tensor:
    """Return vectors (last axis) scaled to length 1; those shorter than 1e-6 are divided by 1e-6."""
    return x * paddle.rsqrt(paddle.clip((x * x).sum(axis=-1, keepdim=True), min=_SMALLEST))


def root(x: Tensor) -> Tensor:
    """Return square roots; below 1e-12 they are 1e-6, with gradient 0 instead of infinity."""
    return paddle.sqrt(paddle.clip(x, min=_SMALLEST))


def rows_of(x: Tensor) -> Tensor:
    """Return 0, 1, … for the rows of a tensor, also where a program does not know how many there are."""
    return paddle.arange(size_of(x, 0), dtype="int64")
