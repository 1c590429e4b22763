"""The true result of add_norm, and cases to compare with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from paddle_infra.ops import add_norm, add_norm_with_sum
from paddle_infra.ops._dropout import draw_seed
from tests.ops.norm_gold import assert_exact, dropout_factor, norm_gold

INPUTS = ("hidden", "residual", "weight", "bias")


@dataclass
class Case:
    """Inputs [rows, size] and [size], and what comes from above, as float32 numpy arrays."""

    hidden: np.ndarray
    grad_out: np.ndarray
    residual: np.ndarray | None = None
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    grad_sum: np.ndarray | None = None  # None: add_norm, else add_norm_with_sum
    options: dict[str, Any] = field(default_factory=dict)


def make_case(
    rows: int,
    size: int,
    *,
    seed: int = 0,
    mean: float = 0.0,
    scale: float = 1.0,
    residual: bool = True,
    weight: bool = True,
    bias: bool = True,
    with_sum: bool = False,
    **options: Any,
) -> Case:
    """Random inputs; those that are normalized have this mean and this standard deviation."""
    rng = np.random.default_rng([rows, size, seed])

    def normal(*shape: int, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
        return (mean + scale * rng.standard_normal(shape)).astype("float32")

    return Case(
        normal(rows, size, mean=mean, scale=scale),
        normal(rows, size),
        normal(rows, size, mean=mean, scale=scale) if residual else None,
        normal(size, mean=1.0, scale=0.5) if weight else None,
        normal(size) if bias else None,
        normal(rows, size) if with_sum else None,
        options,
    )


def check(case: Case, seed: int = 0) -> None:
    """Assert that the fused results are as exact as the plain ones."""
    true, sizes = gold(case, seed)
    assert_exact(run(case, "fused", seed), run(case, "reference", seed), true, sizes)


def gold(case: Case, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Results and gradients in float64, and their sizes."""
    o = case.options
    paddle.seed(seed)
    dropout_p = o.get("dropout_p", 0.0) if o.get("training", True) else 0.0
    rows, size = case.hidden.shape
    factor = dropout_factor(draw_seed().item() if dropout_p else None, rows, size, dropout_p)

    def wide(x: np.ndarray | None, otherwise: float) -> np.ndarray:
        return np.full(size, otherwise) if x is None else x.astype("float64")

    dropped, residual = factor * case.hidden.astype("float64"), wide(case.residual, 0.0)
    x = residual + dropped
    # A sum, or a product with dropout's factor, is rounded; hidden alone is not.
    is_exact = case.residual is None and not dropout_p
    x_size = np.zeros(x.shape) if is_exact else np.abs(dropped) + np.abs(x)
    found = norm_gold(
        x,
        x_size,
        wide(case.weight, 1.0),
        wide(case.bias, 0.0),
        case.grad_out.astype("float64"),
        o.get("norm", "layer") == "rms",
        o.get("epsilon", 1e-5),
    )
    grad_sum = np.zeros(x.shape) if case.grad_sum is None else case.grad_sum.astype("float64")
    grad_x, grad_size = found.grad_x + grad_sum, found.grad_x_size + np.abs(grad_sum)
    true = {
        "out": found.out,
        "sum": x,
        "hidden": grad_x * factor,
        "residual": grad_x,
        "weight": found.grad_weight,
        "bias": found.grad_bias,
    }
    more = {"sum": x_size, "hidden": grad_size * factor, "residual": grad_size}
    return true, {**found.sizes, **{name: float(size.max(initial=0.0)) for name, size in more.items()}}


def run(case: Case, impl: str, seed: int = 0, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Results and gradients of one implementation in dygraph."""
    paddle.seed(seed)
    leaves = {
        name: paddle.to_tensor(getattr(case, name).astype(dtype), stop_gradient=False)
        for name in INPUTS
        if getattr(case, name) is not None
    }
    upstream = [paddle.to_tensor(case.grad_out.astype(dtype))]
    if case.grad_sum is None:
        results = {"out": add_norm(**leaves, impl=impl, **case.options)}
    else:
        results = dict(
            zip(("out", "sum"), add_norm_with_sum(**leaves, impl=impl, **case.options), strict=True)
        )
        upstream.append(paddle.to_tensor(case.grad_sum.astype(dtype)))
    paddle.autograd.backward(list(results.values()), upstream)
    found = {**results, **{name: leaf.grad for name, leaf in leaves.items()}}
    return {name: tensor.numpy() for name, tensor in found.items()}


#: Every option non-default at once.
EVERYTHING = {"with_sum": True, "norm": "rms", "epsilon": 1e-3, "dropout_p": 0.3}


def random_case(seed: int) -> Case:
    """A case in which every option is on or off by chance."""
    rng = np.random.default_rng([3, seed])

    def one_of(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    size = one_of(1, 2, 3, 5, 15, 16, 17, 33, 64, int(rng.integers(1, 200)), int(rng.integers(1, 1500)))
    rows = one_of(1, 2, int(rng.integers(1, 20)), int(rng.integers(1, 200)))
    options = {"norm": one_of("layer", "rms"), "epsilon": one_of(1e-5, 1e-5, 1e-3)}
    if rng.random() < 0.4:
        options["dropout_p"] = one_of(0.1, 0.5, 0.9)
    for name in ("residual", "weight", "bias", "with_sum"):
        options[name] = bool(rng.random() < 0.6)
    scale = one_of(0.01, 1.0, 1.0, 100.0)
    return make_case(rows, size, seed=seed, mean=scale * one_of(0.0, 0.0, 1.0, 30.0), scale=scale, **options)


def check_random_cases(seeds: range) -> None:
    """Compare every case with the true result."""
    for seed in seeds:
        try:
            check(random_case(seed), seed=seed)
        except AssertionError as error:
            raise AssertionError(f"random_case({seed}): {error}") from error
