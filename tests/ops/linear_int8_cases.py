"""Cases of linear_int8, and what must come out: exact sums, then float32."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from paddle_infra.ops import linear_int8, quantize_weight

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu", "silu")


@dataclass
class Case:
    """Inputs as arrays."""

    x: np.ndarray
    weight: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | None
    activation: str = "none"
    name: str = field(default="", compare=False)


def make_case(
    rows: int, depth: int, columns: int, activation: str = "none", has_bias: bool = True, seed: int = 0
) -> Case:
    """Results of about 1; the largest codes, 127 and -127, are in every row and column."""
    rng = np.random.default_rng([seed, rows, depth, columns])
    x = rng.standard_normal((rows, depth)).astype("float32") * np.exp(rng.standard_normal((rows, 1))).astype(
        "f4"
    )
    weight, scale = quantize_weight(
        paddle.to_tensor(rng.standard_normal((depth, columns)).astype("float32") / np.float32(depth**0.5))
    )
    bias = rng.standard_normal(columns).astype("float32") if has_bias else None
    name = str((rows, depth, columns, activation, has_bias))
    return Case(x, weight.numpy(), scale.numpy(), bias, activation, name)


def codes_and_scales(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as integers, and their scales: the definition in numpy's float32."""
    top = np.abs(x).max(axis=1, keepdims=True)
    is_zero = top < np.float32(1e-30)
    safe = np.where(is_zero, np.float32(1), top)
    factor = np.where(is_zero, np.float32(0), np.float32(127) / safe)
    codes = np.rint(x * factor).astype("int64")
    assert np.abs(codes).max(initial=0) <= 127
    return codes, np.where(is_zero, np.float32(1), safe / np.float32(127))


def activated(y: np.ndarray, activation: str) -> np.ndarray:
    """In float64."""
    if activation == "relu":
        return np.maximum(y, 0.0)
    if activation == "silu":
        return y / (1.0 + np.exp(-y))
    if activation == "gelu":
        return y * np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2.0)), otypes=["float64"])(y)
    if activation == "gelu_tanh":
        return 0.5 * y * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (y + 0.044715 * y**3)))
    return y


def run(case: Case, impl: str) -> np.ndarray:
    tensors = [paddle.to_tensor(array) for array in (case.x, case.weight, case.scale)]
    bias = None if case.bias is None else paddle.to_tensor(case.bias)
    return linear_int8(*tensors, bias=bias, activation=case.activation, impl=impl).numpy()


def check(case: Case, impl: str = "fused") -> None:
    """Sums must be exact: one that is off by 1 is off by more than what rounding in float32 may do."""
    codes, scales = codes_and_scales(case.x)
    sums = codes @ case.weight.astype("int64")
    product = sums * scales.astype("float64") * case.scale
    bias = np.zeros_like(case.scale) if case.bias is None else case.bias
    gold = activated(product + bias, case.activation)
    y = run(case, impl)
    assert y.dtype == np.float32
    assert y.shape == gold.shape, case.name
    # Rounding the sum, two factors, the bias and the activation: 2^-24 each, of the largest number in it.
    budget = 3e-7 * (np.abs(product) + np.abs(bias)) + 3e-7
    assert (np.abs(y - gold) <= budget).all(), case.name
    if case.activation == "none" and case.bias is None and np.abs(sums).max(initial=0) < 1 << 24:
        exact = sums.astype("float32") * case.scale * scales
        np.testing.assert_array_equal(y, exact, err_msg=case.name)


def random_case(seed: int) -> Case:
    rng = np.random.default_rng([5, seed])

    def one_of(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    case = make_case(
        one_of(1, 2, 7, 31, 64, 130, 300),
        one_of(1, 2, 3, 16, 31, 64, 77, 130, 300),
        one_of(1, 2, 15, 16, 33, 77, 130, 390),
        one_of(*ACTIVATIONS),
        one_of(True, False),
        seed,
    )
    case.x[rng.random(case.x.shape[0]) < 0.1] = 0.0
    if rng.random() < 0.2:  # products of the largest numbers, all of one sign
        case.x[:] = one_of(1.0, -1.0)
        case.weight[:] = one_of(127, -127)
    return case


def check_random_cases(seeds: range) -> None:
    for seed in seeds:
        try:
            check(random_case(seed))
        except AssertionError as error:
            raise AssertionError(f"random_case({seed}): {error}") from error
