from __future__ import annotations

import re

import paddle
import pytest

from paddle_infra._core import checks
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError


def test_choice():
    checks.check_choice("mode", "a", ("a", "b"))
    with pytest.raises(InvalidInputError, match=r"mode: expected one of 'a', 'b', got 'c'"):
        checks.check_choice("mode", "c", ("a", "b"))


def test_number():
    assert checks.check_number("rate", 1, 0, 2) == 1.0
    for value in (2.5, -0.1, float("nan"), float("inf")):
        with pytest.raises(
            InvalidInputError, match=rf"rate: expected a finite number in \[0, 2\], got {value}"
        ):
            checks.check_number("rate", value, 0, 2)
    for value in (True, "1", None):
        with pytest.raises(
            InvalidDtypeError, match=f"rate: expected a Python number, got {type(value).__name__}"
        ):
            checks.check_number("rate", value)


def test_integer():
    assert checks.check_integer("k", 3) == 3
    for value in (True, 3.0, "3"):
        with pytest.raises(InvalidDtypeError, match=f"k: expected an int, got {type(value).__name__}"):
            checks.check_integer("k", value)


def test_tensor():
    checks.check_tensor("x", paddle.zeros([2]), ("float64", "float32"))
    with pytest.raises(InvalidDtypeError, match="x: expected dtype float64 or float16, got float32"):
        checks.check_tensor("x", paddle.zeros([2]), ("float64", "float16"))
    with pytest.raises(InvalidDtypeError, match=r"x: expected a paddle.Tensor, got list"):
        checks.check_tensor("x", [1.0], ("float32",))


@pytest.mark.parametrize("expected", [[2, 3], [-1, 3], [-1, -1]])
def test_shape_that_fits(expected):
    checks.check_shape("x", paddle.zeros([2, 3]), expected, "[A, B]")


@pytest.mark.parametrize("expected", [[2], [2, 4], [2, 3, 1], [-1, 2], []])
def test_shape_that_does_not_fit(expected):
    message = re.escape(f"x: expected shape {expected} ([A, B]), got [2, 3]")
    with pytest.raises(InvalidInputError, match=message):
        checks.check_shape("x", paddle.zeros([2, 3]), expected, "[A, B]")


@pytest.mark.parametrize("name", ["float32", "float64", "int64", "bfloat16", "bool"])
def test_dtype_name(name):
    assert checks.dtype_name(paddle.zeros([1], name)) == name
