"""Activation functions of the kernels and their derivatives against float64, with every instruction set."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.ops.fresh_process import INSTRUCTION_SETS, python_with_isa
from tests.ops.linear_cases import ROUGH_SLOPE, ROUGH_VALUE

NAMES = ("none", "gelu", "gelu_tanh", "relu", "silu")

RUN = """
import ctypes, sys
import numpy as np
from paddle_infra._core import extension

extension.require()
call = ctypes.CDLL(str(extension.LIBRARY)).paddle_infra_activation
pointer = np.ctypeslib.ndpointer("float32", flags="C")
call.argtypes = [ctypes.c_int, pointer, pointer, pointer, ctypes.c_int64]
x = np.load(sys.argv[1] + "/x.npy")
numbers = list(map(int, sys.argv[2:])) or range(5)
results = np.zeros((len(numbers), 2, x.size), "float32")
for i, (value, slope) in zip(numbers, results):
    call(i, x, value, slope, x.size)
np.save(sys.argv[1] + "/results.npy", results)
"""


def inputs():
    tiny = np.logspace(-38, 0, 2001)
    ends = [0.0, -0.0, 1e4, -1e4, 1e19, -1e19, 3e38, -3e38]
    return np.concatenate([np.linspace(-6, 6, 20_001), np.linspace(-20, 20, 4001), tiny, -tiny, ends]).astype(
        "float32"
    )


def gold(name, x):
    """Value and slope in float64, without cancellation for large negative x."""
    x = x.astype("float64")
    if name == "none":
        return x, np.ones_like(x)
    if name == "relu":
        return np.maximum(x, 0.0), (x > 0).astype("float64")
    near = np.clip(x, -700.0, 700.0)
    if name == "silu":
        s = 1 / (1 + np.exp(-near))
        return x * s, s + near * s * (1 - s)
    if name == "gelu":
        p = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in near])
        return x * p, p + near * np.exp(-near * near / 2) / math.sqrt(2 * math.pi)
    c = math.sqrt(2 / math.pi)
    u = 2 * c * (near + 0.044715 * near**3)
    p, q = (1 / (1 + np.exp(np.clip(sign * u, -700, 700))) for sign in (-1.0, 1.0))
    return x * p, p + 2 * near * p * q * c * (1 + 3 * 0.044715 * near**2)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_values_and_slopes(isa, tmp_path):
    x = inputs()
    np.save(tmp_path / "x.npy", x)
    python_with_isa(isa, RUN, str(tmp_path))
    for name, (value, slope) in zip(NAMES, np.load(tmp_path / "results.npy"), strict=True):
        true_value, true_slope = gold(name, x)
        # Half an ulp of the largest factor is 6e-8 of the value.
        allowed = 2.5e-7 * np.maximum(1.0, np.abs(true_value))
        assert (np.abs(value - true_value) <= allowed).all(), name
        assert np.abs(slope - true_slope).max() <= 4e-7, name
        # Tiny inputs: right in relation to the result, which an absolute bound would not notice.
        tiny = (np.abs(x) < 1e-3) & (np.abs(x) > 1e-37)
        assert (np.abs(value - true_value)[tiny] <= 2.5e-7 * np.abs(true_value)[tiny]).all(), name


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_rough_gelu(isa, tmp_path):
    """What "medium" precision computes: much better than the rounding to bfloat16, 2e-3, that follows."""
    x = np.concatenate([inputs(), np.array([np.nan, np.inf, -np.inf], "float32")])
    np.save(tmp_path / "x.npy", x)
    python_with_isa(isa, RUN, str(tmp_path), "6")
    ((value, slope),) = np.load(tmp_path / "results.npy")
    assert np.isnan([value[-3], slope[-3]]).all()
    assert list(value[-2:]) == [np.inf, 0.0]
    assert list(slope[-2:]) == [1.0, 0.0]
    value, slope, x = value[:-3], slope[:-3], x[:-3]
    true_value, true_slope = gold("gelu", x)
    # Beyond -5 it is nearly 0, and so is the error.
    allowed = ROUGH_VALUE * np.abs(true_value) + np.where(x < -5, 1e-6, 1e-37)
    assert (np.abs(value - true_value) <= allowed).all()
    assert np.abs(slope - true_slope).max() <= ROUGH_SLOPE


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_nan_and_infinity(isa, tmp_path):
    np.save(tmp_path / "x.npy", np.array([np.nan, np.inf, -np.inf], "float32"))
    python_with_isa(isa, RUN, str(tmp_path))
    for name, (value, slope) in zip(NAMES, np.load(tmp_path / "results.npy"), strict=True):
        assert np.isnan(value[0]), name
        assert value[1] == np.inf, name
        # SiLU gets no nearer to 0 than -100 e^-87.
        assert abs(value[2]) < 1e-35 if name != "none" else value[2] == -np.inf, name
        if name != "none":
            assert np.isnan(slope[0]), name
            assert slope[1] == 1.0, name
            assert abs(slope[2]) < 1e-35, name
