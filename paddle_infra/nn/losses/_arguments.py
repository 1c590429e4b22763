"""Checks that the losses of embeddings share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle.jit.marker import unified

from paddle_infra._core.checks import UNKNOWN, check_shape, check_tensor, dtype_name

FLOATS = ("float32", "float64", "float16", "bfloat16")


def check_rows(name: str, value: Any, like: Any = None) -> None:
    """Raise unless ``value`` is a float tensor ``[batch_size, width]``, of the shape and dtype of ``like`` if given."""
    check_tensor(name, value, FLOATS if like is None else (dtype_name(like),))
    shape: Sequence[int] = [UNKNOWN, UNKNOWN] if like is None else list(like.shape)
    check_shape(name, value, shape, "[batch_size, width]")


def check_labels(name: str, value: Any, rows: Any, dtypes: Sequence[str] = ("int64", "int32")) -> None:
    """Raise unless ``value`` has one entry for each of ``rows``."""
    check_tensor(name, value, dtypes)
    check_shape(name, value, [rows.shape[0]], "[batch_size]")


# Paddle's graph capture shall call them as they are, not rewrite their source: they are about what is known before
# a program runs.
for _check in (check_rows, check_labels):
    unified(_check)
