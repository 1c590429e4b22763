"""linear held to float64 gold whose factors are rounded exactly as the precision says, number by number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import paddle

from paddle_infra._core.tolerances import error_budget
from paddle_infra.ops import linear, set_matmul_precision

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu", "silu", "swiglu")
PRECISIONS = ("highest", "medium")
# "medium" computes gelu to this share of its value, and its slope to this.
ROUGH_VALUE, ROUGH_SLOPE = 3e-4, 1.1e-4


@dataclass
class Case:
    """Inputs, and the gradient of the result, as float32 arrays."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    grad_y: np.ndarray
    activation: str = "none"


def make_case(
    rows: int,
    depth: int,
    columns: int,
    activation: str = "none",
    *,
    bias: bool = True,
    scale: float = 1.0,
    seed: int = 0,
) -> Case:
    """Random inputs whose x W has a standard deviation of ``scale``."""
    rng = np.random.default_rng([seed, rows, depth, columns])

    def normal(*shape: int, factor: float = 1.0) -> np.ndarray:
        return rng.standard_normal(shape, "float32") * np.float32(factor)

    return Case(
        normal(rows, depth),
        normal(depth, columns, factor=scale * depth**-0.5),
        normal(columns) if bias else None,
        normal(rows, columns // 2 if activation == "swiglu" else columns),
        activation,
    )


def bfloat16(array: np.ndarray) -> np.ndarray:
    """Round to the nearest bfloat16, ties to even; no NaN, nothing too large."""
    bits = array.astype("float32").view("uint32")
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view("float32").astype(array.dtype)


def value_and_slope(activation: str, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An activation of one number and its derivative, in float64."""
    if activation == "relu":
        return np.maximum(z, 0.0), (z > 0).astype("float64")
    if activation == "silu":
        s = (1 + np.tanh(z / 2)) / 2  # the sigmoid, without overflow
        return z * s, s + z * s * (1 - s)
    if activation == "gelu":
        p = np.array([0.5 * math.erfc(-v * 0.5**0.5) for v in z.ravel().tolist()]).reshape(z.shape)
        return z * p, p + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    if activation == "gelu_tanh":
        c = math.sqrt(2 / math.pi)
        t = np.tanh(c * (z + 0.044715 * z**3))
        return z * (1 + t) / 2, (1 + t) / 2 + z / 2 * (1 - t * t) * c * (1 + 3 * 0.044715 * z * z)
    return z, np.ones_like(z)


def activate(activation: str, z: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f(z), and the gradient with respect to z where that of f(z) is g."""
    if activation == "swiglu":
        gate, up = np.split(z, 2, axis=1)
        value, slope = value_and_slope("silu", gate)
        return value * up, np.concatenate([g * up * slope, g * value], axis=1)
    value, slope = value_and_slope(activation, z)
    return value, g * slope


@dataclass
class Truth:
    """The true results, and what else may be true for each number of them."""

    results: dict[str, np.ndarray]
    slack: dict[str, np.ndarray]
    grad_z: np.ndarray  # as it is multiplied


def gold(case: Case, precision: str = "highest") -> Truth:
    """Compute in float64.

    Two things hang on the last digits of z, which float32 does not have: whether relu passes a gradient on, and to
    which neighbour a gradient is rounded in "medium" precision. Where both are as good, ``slack`` has what that may
    change.
    """
    x, weight, g = (a.astype("float64") for a in (case.x, case.weight, case.grad_y))
    if precision == "medium":
        x, weight = bfloat16(x), bfloat16(weight)
    bias = 0.0 if case.bias is None else case.bias.astype("float64")
    z = x @ weight + bias
    y, grad_z = activate(case.activation, z, g)

    doubt = 1e-6 * (np.abs(x) @ np.abs(weight) + np.abs(bias)) if len(x) else np.zeros_like(z)
    uncertain, y_slack = np.zeros_like(z), np.zeros_like(y)
    both = np.concatenate([g, g], axis=1) if case.activation == "swiglu" else g
    if case.activation == "relu":
        uncertain = np.abs(g) * (np.abs(z) <= doubt)
    grad_bias, bias_slack = grad_z.sum(0), uncertain.sum(0)
    if precision == "medium":
        exact, grad_z = grad_z, bfloat16(grad_z)
        if case.activation != "none":  # slopes of slopes are below 1.2
            factor = 1 + np.abs(z).max(initial=0.0) if case.activation == "swiglu" else 1.2
            error = 1e-6 * np.abs(exact) + doubt * np.abs(both) * factor
            if case.activation == "gelu":
                error += ROUGH_SLOPE * np.abs(g)
                bias_slack = ROUGH_SLOPE * np.abs(g).sum(0)
                y_slack += ROUGH_VALUE * np.abs(y) + 1e-6  # beyond -5 it is nearly 0
            uncertain += np.abs(bfloat16(exact + error) - bfloat16(exact - error))
    # Where terms cancel, the rounding of each is not small against the sum: half a unit of a factor, and of slopes,
    # which are about 1 and are themselves differences.
    uncertain += 2.0**-24 * (np.abs(grad_z) + (np.abs(both) if case.activation != "none" else 0.0))
    return Truth(
        {"y": y, "x": grad_z @ weight.T, "weight": x.T @ grad_z, "bias": grad_bias},
        {
            "y": y_slack,
            "x": uncertain @ np.abs(weight).T,
            "weight": np.abs(x).T @ uncertain,
            "bias": bias_slack,
        },
        grad_z,
    )


def run(case: Case, impl: str, dtype: str = "float32", precision: str = "highest") -> dict[str, np.ndarray]:
    """Results and gradients of one implementation in dygraph."""
    arrays = {"x": case.x, "weight": case.weight, "bias": case.bias}
    inputs = {
        name: paddle.to_tensor(array.astype(dtype), stop_gradient=False)
        for name, array in arrays.items()
        if array is not None
    }
    with set_matmul_precision(precision):
        y = linear(**inputs, activation=case.activation, impl=impl)
        y.backward(paddle.to_tensor(case.grad_y.astype(dtype)))
    return {"y": y.numpy(), **{name: tensor.grad.numpy() for name, tensor in inputs.items()}}


def plain(case: Case, precision: str, grad_z: np.ndarray) -> dict[str, np.ndarray]:
    """What plain Paddle in float32 makes of the same factors."""
    if precision == "highest":
        return run(case, "reference")
    x, weight = bfloat16(case.x), bfloat16(case.weight)
    found = run(Case(x, weight, case.bias, case.grad_y, case.activation), "reference")
    products = run(Case(x, weight, None, grad_z.astype("float32")), "reference")
    return {**found, "x": products["x"], "weight": products["weight"]}


def check(case: Case, precisions: tuple[str, ...] = PRECISIONS, factor: float = 1.0) -> None:
    """Assert that the fused results are as exact as those of plain Paddle with the same factors.

    Args:
        case: what to compute.
        precisions: the precisions to compare in.
        factor: how many times the plain one's error is allowed.
    """
    for precision in precisions:
        truth, fused = gold(case, precision), run(case, "fused", precision=precision)
        reference = plain(case, precision, truth.grad_z)
        assert fused.keys() == reference.keys()
        for name, value in fused.items():
            true = truth.results[name]
            assert value.shape == true.shape, name
            budget = error_budget(reference[name], true, "float32", factor) + truth.slack[name]
            excess = (np.abs(value - true) - budget).max(initial=-np.inf)
            assert excess <= 0, f"{precision}, {case.activation}, {name}: {excess:.3g} more than allowed"


def random_case(seed: int) -> Case:
    """Mostly small shapes; some are larger than the blocks of the kernel and of the products."""
    rng = np.random.default_rng([11, seed])
    activation = ACTIVATIONS[seed % len(ACTIVATIONS)]
    most = (12, 40, 40, 100)[int(rng.integers(4))]
    rows, depth, columns = (int(n) for n in rng.integers(1, most + 1, 3))
    if rng.random() < 0.04:
        rows, depth, columns = (int(n) for n in rng.integers(1, (600, 300, 400)))
    if activation == "swiglu":
        columns += columns % 2
    scale = (0.1, 1.0, 1.0, 5.0)[int(rng.integers(4))]
    return make_case(rows, depth, columns, activation, bias=bool(rng.integers(2)), scale=scale, seed=seed)


def check_random_cases(seeds: range, precisions: tuple[str, ...] = PRECISIONS) -> None:
    """Compare every case with the true result."""
    for seed in seeds:
        try:
            # One of thousands meets a lucky plain one.
            check(random_case(seed), precisions, factor=2.0)
        except AssertionError as error:
            raise AssertionError(f"random_case({seed}): {error}") from error


def cases_of_targets() -> list[Case]:
    """A few shapes with tails of every kind, for what is run once per instruction set."""
    shapes = ((1, 1, 2), (13, 17, 38), (65, 49, 242), (257, 130, 66), (300, 384, 10))
    return [make_case(*shape, activation) for activation in ACTIVATIONS for shape in shapes]
