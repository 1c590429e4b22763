from __future__ import annotations

import numpy as np
import pytest

from paddle_infra._core.tolerances import ALLOWANCE, error_budget, largest_error


def test_budget_is_the_references_error_plus_an_allowance_relative_to_the_result():
    gold = np.array([100.0, -400.0])
    reference = np.array([100.0, -400.5], "float32")
    assert error_budget(reference, gold, "float32") == 0.5 + 400 * ALLOWANCE["float32"]
    assert error_budget(reference, gold, "float32", 2.0) == 1.0 + 400 * ALLOWANCE["float32"]
    assert error_budget(np.zeros(0), np.zeros(0), "float32") == 0.0
    with pytest.raises(KeyError, match="int8"):
        error_budget(reference, gold, "int8")


def test_largest_error():
    assert largest_error(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.5
    assert largest_error(np.zeros(0), np.zeros(0)) == 0.0
    nan = np.array([np.nan, 1.0])
    assert largest_error(nan, nan) == 0.0
    assert largest_error(nan, np.array([1.0, 1.0])) == np.inf
    assert largest_error(np.zeros(3), np.zeros((3, 1))) == np.inf
