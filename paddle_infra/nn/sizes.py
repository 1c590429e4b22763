"""Sizes of tensors that are also right inside a program of unknown sizes."""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.jit.marker import unified

from paddle_infra._core.checks import UNKNOWN


def size_of(x: Tensor, axis: int) -> int | Tensor:
    """Return a size of ``x``: a number, or where a program does not know it, a 0-D tensor."""
    return paddle.shape(x)[axis] if x.shape[axis] == UNKNOWN else x.shape[axis]


# Paddle's graph capture shall call it as it is: rewritten, `x.shape` holds tensors, and comparing one is an error.
unified(size_of)
