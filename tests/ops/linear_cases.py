"""The true result of linear, computed in float64 with numpy, and cases to compare with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import paddle

from paddle_infra._core.tolerances import error_budget, largest_error
from paddle_infra.ops import linear, set_matmul_precision

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu", "silu", "swiglu")
# Where "medium" rounds a sum to bfloat16 between the products (the gradient of z), one of its 256 steps decides
# differently here and there, as the kernel's own z is float32.
MEDIUM_ROUNDING = 3e-3
_erf = np.vectorize(math.erf, otypes=[float])


@dataclass
class Case:
    """Inputs as float32 arrays; ``upstream`` is the gradient of the result."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    upstream: np.ndarray
    activation: str


def make_case(
    rows: int, features: int, columns: int, activation: str = "none", *, bias: bool = True, seed: int = 0
) -> Case:
    """Random inputs whose z has a standard deviation of about 1; swiglu needs an even number of columns."""
    rng = np.random.default_rng([seed, rows, features, columns])
    width = columns // 2 if activation == "swiglu" else columns
    return Case(
        rng.standard_normal((rows, features)).astype("float32"),
        (rng.standard_normal((features, columns)) / math.sqrt(features)).astype("float32"),
        rng.standard_normal(columns).astype("float32") if bias else None,
        rng.standard_normal((rows, width)).astype("float32"),
        activation,
    )


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round to the nearest bfloat16, ties to even, as float64."""
    bits = np.ascontiguousarray(values, "float32").view("uint32")
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view("float32").astype("float64")


def value_and_slope(z: np.ndarray, activation: str) -> tuple[np.ndarray, np.ndarray]:
    """Return f(z) and f'(z) of the activations of one number."""
    if activation == "gelu":
        phi = 0.5 * (1.0 + _erf(z / math.sqrt(2.0)))
        return z * phi, phi + z * np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    if activation == "gelu_tanh":
        inner = math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)
        t = np.tanh(inner)
        slope = math.sqrt(2.0 / math.pi) * (1.0 + 3 * 0.044715 * z * z)
        return 0.5 * z * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * slope
    if activation == "relu":
        return np.maximum(z, 0.0), (z > 0.0).astype("float64")
    if activation == "silu":
        s = 1.0 / (1.0 + np.exp(-z))
        return z * s, s * (1.0 + z * (1.0 - s))
    return z, np.ones_like(z)


def gold(case: Case, precision: str = "highest") -> dict[str, np.ndarray]:
    """Result and gradients in float64; for "medium" of factors rounded as the kernel rounds them."""
    of = to_bfloat16 if precision == "medium" else lambda values: values.astype("float64")
    x, weight, upstream = of(case.x), of(case.weight), case.upstream.astype("float64")
    z = x @ weight + (0.0 if case.bias is None else case.bias.astype("float64"))
    if case.activation == "swiglu":
        gate, up = np.split(z, 2, axis=1)
        value, slope = value_and_slope(gate, "silu")
        y, dz = value * up, np.concatenate([upstream * up * slope, upstream * value], axis=1)
    else:
        y, slope = value_and_slope(z, case.activation)
        dz = upstream * slope
    factor = of(dz.astype("float32")) if precision == "medium" else dz
    return {"y": y, "x": factor @ weight.T, "weight": x.T @ factor, "bias": dz.sum(axis=0)}


def run(case: Case, impl: str, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Result and gradients of one implementation in dygraph."""
    arrays = {"x": case.x, "weight": case.weight, "bias": case.bias}
    tensors = {
        name: paddle.to_tensor(array.astype(dtype), stop_gradient=False)
        for name, array in arrays.items()
        if array is not None
    }
    y = linear(**tensors, activation=case.activation, impl=impl)
    y.backward(paddle.to_tensor(case.upstream.astype(dtype)))
    return {"y": y.numpy(), **{name: tensor.grad.numpy() for name, tensor in tensors.items()}}


def check(case: Case) -> None:
    """Assert that "highest" is as exact as plain float32 Paddle, and that "medium" only rounds its factors."""
    truth, plain = gold(case), run(case, "reference")
    for name, value in run(case, "fused").items():
        # Of thousands of numbers one may meet a lucky plain one: twice its error is allowed.
        budget = error_budget(plain[name], truth[name], "float32", 2.0)
        error = largest_error(value, truth[name])
        assert error <= budget, f"{name}: error {error:.3g}, allowed {budget:.3g}, {case.activation}"
    rounded = gold(case, "medium")
    with set_matmul_precision("medium"):
        found = run(case, "fused")
    for name, value in found.items():
        allowance = 1e-5 if name == "y" else MEDIUM_ROUNDING
        scale = np.abs(rounded[name]).max(initial=0.0)
        if case.activation == "relu" and name != "y":
            # A z of nearly 0 may be on either side of the step.
            allowance = 1e-2
        error = largest_error(value, rounded[name])
        assert error <= allowance * scale, f"medium {name}: {error:.3g} of {scale:.3g}, {case.activation}"


#: Shapes with tails of every kind, for what is run once per instruction set.
SHAPES_OF_TARGETS = ((1, 1, 2), (7, 13, 18), (257, 64, 130), (300, 100, 390))
