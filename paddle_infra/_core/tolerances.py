"""How exact a kernel must be: against float64, relative to the plain implementation in the same dtype.

A kernel may be wrong by as much as the plain implementation is on the same inputs, plus a small allowance. A
fixed tolerance is too loose where results are small or easy and too tight where they are large or hard.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

#: Allowance per dtype, relative to the largest magnitude of the true result: a few units in the last place.
ALLOWANCE = MappingProxyType({"float64": 1e-14, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3})


def error_budget(
    reference: NDArray[np.floating], gold: NDArray[np.floating], dtype: str, factor: float = 1.0
) -> float:
    """Return the largest absolute error that a kernel may have.

    Args:
        reference: Result of the plain implementation in ``dtype``.
        gold: The true result, computed in float64; same shape.
        dtype: Name of the dtype the kernel computes in.
        factor: How many times the plain implementation's error is allowed; say why where it is not 1.

    Raises:
        KeyError: ``dtype`` has no allowance.
    """
    if gold.size == 0:
        return 0.0
    own_error = np.abs(reference.astype(np.float64) - gold).max()
    return float(factor * own_error + ALLOWANCE[dtype] * np.abs(gold).max())


def largest_error(actual: NDArray[np.floating], gold: NDArray[np.floating]) -> float:
    """Return the largest absolute error; infinite if shapes differ or NaNs are in different places."""
    if actual.shape != gold.shape or not np.array_equal(np.isnan(actual), np.isnan(gold)):
        return float("inf")
    known = ~np.isnan(gold)
    return float(np.abs(actual.astype(np.float64) - gold)[known].max(initial=0.0))
