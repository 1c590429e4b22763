"""The histogram of a tensor, computed once for every logger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

BINS = 64


@dataclass(frozen=True)
class Histogram:
    """How the finite values of a tensor are distributed.

    Attributes:
        counts: int64 [bins].
        edges: float64 [bins + 1], ascending, equally far apart.
        sum: sum of the values.
        sum_squares: sum of their squares.
    """

    counts: npt.NDArray[np.int64]
    edges: npt.NDArray[np.float64]
    sum: float
    sum_squares: float

    @property
    def size(self) -> int:
        """Number of values."""
        return int(self.counts.sum())


def histogram_of(tensor: Any, bins: int = BINS) -> Histogram | None:
    """Return the histogram of the finite values of a tensor or an array; None if there is none."""
    if isinstance(tensor, paddle.Tensor):
        tensor = tensor.astype("float32").numpy()  # NumPy has no bfloat16
    values = np.asarray(tensor, np.float64).ravel()
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    counts, edges = np.histogram(values, bins=bins)
    return Histogram(counts.astype(np.int64), edges, float(values.sum()), float(np.square(values).sum()))
