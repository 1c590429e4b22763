from __future__ import annotations

import numpy as np
import pytest

from paddle_infra._core.errors import AxisMismatch, DtypeMismatch, ValueMismatch
from paddle_infra.export.compare import check_form, check_values

EXACT = {"atol": 0.0, "rtol": 0.0}


def test_the_largest_error_is_returned() -> None:
    expected = np.array([1.0, -2.0], "float32")
    assert check_values("y", "c", expected, expected + np.float32(2**-20), atol=1e-4, rtol=0) == 2**-20
    assert check_values("y", "c", expected[:0], expected[:0], **EXACT) == 0.0


def test_the_first_bad_element_is_named() -> None:
    expected = np.zeros((2, 3), "float32")
    got = expected.copy()
    got[0, 2], got[1, 0] = 0.5, -2
    message = (
        r"output 'y', case c: expected 0\.0 at index \[0, 2\], got 0\.5, tolerance 0\.0001; "
        r"2 of 6 elements differ, the largest absolute error is 2"
    )
    with pytest.raises(ValueMismatch, match=message):
        check_values("y", "c", expected, got, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("expected", "got"),
    [(1.0, np.nan), (np.nan, np.nan), (np.inf, 1.0), (1.0, np.inf), (np.inf, -np.inf), (np.nan, 1.0)],
)
def test_nan_and_unequal_infinities_never_pass(expected: float, got: float) -> None:
    with pytest.raises(ValueMismatch, match=r"at index \[0\]"):
        check_values("y", "c", np.array([expected]), np.array([got]), atol=1e30, rtol=0.0)


def test_equal_infinities_pass() -> None:
    array = np.array([np.inf, -np.inf])
    assert check_values("y", "c", array, array.copy(), atol=0.0, rtol=1e-3) == 0.0


def test_relative_tolerance_grows_with_the_reference() -> None:
    assert check_values("y", "c", np.array([1000.0]), np.array([1000.5]), atol=0.0, rtol=1e-3) == 0.5
    with pytest.raises(ValueMismatch, match="tolerance 1"):
        check_values("y", "c", np.array([1000.0]), np.array([1001.5]), atol=0.0, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["int64", "bool", "uint8"])
def test_integers_must_be_equal_whatever_the_tolerance(dtype: str) -> None:
    expected, got = np.array([0, 1], dtype), np.array([0, 0], dtype)
    with pytest.raises(ValueMismatch, match=r"at index \[1\]"):
        check_values("y", "c", expected, got, atol=5.0, rtol=0.0)
    # float64 cannot tell these two apart
    with pytest.raises(ValueMismatch, match=r"at index \[0\]"):
        check_values("y", "c", np.array([2**53]), np.array([2**53 + 1]), **EXACT)


def test_float16_is_compared_in_float64() -> None:
    expected, got = np.array([60000], "float16"), np.array([-60000], "float16")
    with pytest.raises(ValueMismatch, match="largest absolute error is 120000"):
        check_values("y", "c", expected, got, atol=1.0, rtol=0.0)


def test_form_comes_before_values() -> None:
    with pytest.raises(DtypeMismatch, match="output 'y', case c: expected dtype float32, got float64"):
        check_form("y", "c", np.zeros(2, "float32"), np.zeros(2))
    with pytest.raises(AxisMismatch, match=r"expected shape \[2, 1\], got \[2\]"):
        check_form("y", "c", np.zeros((2, 1)), np.zeros(2))
