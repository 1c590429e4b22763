"""Compare one output of an export with the reference."""

from __future__ import annotations

import numpy as np

from paddle_infra._core.errors import AxisMismatch, DtypeMismatch, ValueMismatch


def check_form(name: str, case: str, expected: np.ndarray, got: np.ndarray) -> None:
    """Compare dtype and shape.

    Raises:
        DtypeMismatch: the dtypes differ.
        AxisMismatch: the shapes differ.
    """
    where = f"output {name!r}, case {case}"
    if expected.dtype != got.dtype:
        raise DtypeMismatch(f"{where}: expected dtype {expected.dtype}, got {got.dtype}")
    if expected.shape != got.shape:
        raise AxisMismatch(f"{where}: expected shape {list(expected.shape)}, got {list(got.shape)}")


def check_values(
    name: str, case: str, expected: np.ndarray, got: np.ndarray, *, atol: float, rtol: float
) -> float:
    """Return the largest absolute error of ``got``, an array of the same form as ``expected``, or raise.

    Numbers are compared in float64 against ``atol + rtol * |expected|``. Equal infinities are equal; NaN
    never is, not even where the reference has NaN too. Integers and booleans must be equal.

    Raises:
        ValueMismatch: an element differs by more than the tolerance; the message names the first one.
    """
    errors, bounds = _errors(expected, got, atol, rtol)
    bad = ~(errors <= bounds)  # also true for NaN
    if not bad.any():
        return float(errors.max(initial=0.0))
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    raise ValueMismatch(
        f"output {name!r}, case {case}: expected {expected[index]} at index {list(index)}, got {got[index]}, "
        f"tolerance {bounds[index]:.3g}; {int(bad.sum())} of {bad.size} elements differ, "
        f"the largest absolute error is {_largest(errors):.6g}",
        output=name,
        case=case,
        index=index,
        expected=expected[index].item(),
        got=got[index].item(),
        tolerance=float(bounds[index]),
    )


def is_close(expected: np.ndarray, got: np.ndarray, *, atol: float, rtol: float = 0.0) -> bool:
    """Whether ``got`` has the form of ``expected`` and its numbers; NaN is equal to NaN here."""
    if expected.dtype != got.dtype or expected.shape != got.shape:
        return False
    errors, bounds = _errors(expected, got, atol, rtol)
    same = errors <= bounds
    if expected.dtype.kind in "fc":
        same |= np.isnan(expected) & np.isnan(got)
    return bool(same.all())


def _errors(expected: np.ndarray, got: np.ndarray, atol: float, rtol: float) -> tuple[np.ndarray, np.ndarray]:
    if expected.dtype.kind not in "fc":
        different = (expected != got).astype(np.float64)
        return different, np.zeros_like(different)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    reference, actual = expected.astype(wide), got.astype(wide)
    with np.errstate(invalid="ignore"):
        errors = np.where(reference == actual, 0.0, np.abs(reference - actual))
        bounds = np.where(np.isfinite(reference), atol + rtol * np.abs(reference), 0.0)
    return errors, bounds


def _largest(errors: np.ndarray) -> float:
    return float("nan") if np.isnan(errors).any() else float(errors.max())
