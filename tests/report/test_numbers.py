from __future__ import annotations

import math

import pytest

from paddle_infra.report.numbers import error_size, milliseconds, number, rate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5452, "5,452"),
        (3.0, "3"),
        (0.96199, "0.962"),
        (0.30000000000000004, "0.3"),
        (12345.6, "12,346"),
        (1.9e-6, "1.9e-6"),
        (5e-5, "5e-5"),
        (2.5e9 + 0.5, "2.5e9"),
        (0, "0"),
        (-0.25, "-0.25"),
        ("3 min", "3 min"),
        (math.nan, "NaN"),
        (-math.inf, "-inf"),
        (math.inf, "inf"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_other_forms() -> None:
    assert rate(0.5) == "0.5000"
    assert rate(math.nan) == "NaN"
    assert milliseconds(6.214) == "6.21"
    assert milliseconds(132.44) == "132.4"
    assert milliseconds(math.inf) == "inf"
    assert error_size(1e-4) == "1e-4"
    assert error_size(1.519e-6) == "1.52e-6"
    assert error_size(0.0) == "0"
    assert error_size(math.nan) == "NaN"
