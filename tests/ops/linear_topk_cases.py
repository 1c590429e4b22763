"""Cases of linear_topk: inputs, the true result, and how close to it an implementation must be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.tolerances import ALLOWANCE, error_budget, largest_error
from paddle_infra.ops import linear_topk, linear_topk_log_prob, set_matmul_precision

FEW_ROWS = 8  # up to here products are of floats whatever the precision: linear_topk_cpu.cc


@dataclass
class Case:
    """Inputs, the weight as [V, D]."""

    hidden: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    k: int
    softcap: float = 0.0
    layout: str = "vd"
    is_log: bool = False
    precision: str = "highest"
    name: str = field(default="", compare=False)


def make_case(
    rows: int,
    features: int,
    classes: int,
    k: int,
    *,
    has_bias: bool = False,
    scale: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> Case:
    """Logits have a spread of about ``scale``."""
    rng = np.random.default_rng([seed, rows, features, classes])
    hidden = rng.standard_normal((rows, features)).astype("float32")
    weight = (scale / features**0.5 * rng.standard_normal((classes, features))).astype("float32")
    bias = rng.standard_normal(classes).astype("float32") if has_bias else None
    return Case(hidden, weight, bias, k, name=str((rows, features, classes, k)), **options)


def rounded(x: np.ndarray) -> np.ndarray:
    """To bfloat16, ties to even."""
    bits = x.view("uint32")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view("float32")


def multiplied(case: Case) -> Case:
    """The case with the numbers that the kernel multiplies."""
    if case.precision == "highest" or case.hidden.shape[0] <= FEW_ROWS:
        return case
    return replace(case, hidden=rounded(case.hidden), weight=rounded(case.weight))


def true_result(case: Case) -> tuple[np.ndarray, float]:
    """Probabilities or their logarithms of all classes in float64, and the largest logit."""
    logits = case.hidden.astype("float64") @ case.weight.astype("float64").T
    if case.bias is not None:
        logits = logits + case.bias
    if case.softcap > 0.0:
        logits = case.softcap * np.tanh(logits / case.softcap)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_prob = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_prob if case.is_log else np.exp(log_prob), float(np.abs(logits).max())


def run(case: Case, impl: str) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and classes."""
    operator = linear_topk_log_prob if case.is_log else linear_topk
    weight = case.weight if case.layout == "vd" else np.ascontiguousarray(case.weight.T)
    with set_matmul_precision(case.precision):
        prob, index = operator(
            paddle.to_tensor(case.hidden),
            paddle.to_tensor(weight),
            case.k,
            bias=None if case.bias is None else paddle.to_tensor(case.bias),
            softcap=case.softcap,
            weight_layout=case.layout,
            impl=impl,
        )
    return prob.numpy(), index.numpy()


def check(case: Case, impl: str = "fused") -> None:
    """Compare with float64: no further off than plain Paddle is, plus a little; and the right classes."""
    used = multiplied(case)
    gold, largest = true_result(used)
    prob, index = run(case, impl)
    assert prob.dtype == np.float32
    assert index.dtype == np.int64
    assert prob.shape == index.shape == (case.hidden.shape[0], case.k)
    assert ((index >= 0) & (index < gold.shape[1])).all(), case.name
    assert all(len(set(row)) == case.k for row in index), case.name
    assert (np.diff(prob, axis=1) <= 0.0).all(), case.name
    best = -np.sort(-gold, axis=1)[:, : case.k]
    plain, _ = run(used, "reference")
    # Plain Paddle sums thousands of exponentials one after the other: for itself, that counts ten times.
    budget = error_budget(plain, best, "float32") if impl == "fused" else 1e-5 * float(np.abs(best).max())
    if case.is_log:  # a difference of logits has their error, however small it is
        budget = max(budget, ALLOWANCE["float32"] * largest)
    assert largest_error(prob, best) <= budget, case.name
    # Near ties may change places, so classes are judged by their true probabilities.
    assert largest_error(np.take_along_axis(gold, index, 1), best) <= 2 * budget, case.name


def random_case(seed: int) -> Case:
    """Sizes around those of blocks and vectors, every option on or off by chance."""
    rng = np.random.default_rng([3, seed])

    def one_of(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    rows = one_of(1, 2, 7, 8, 9, 33, 128, 131, 260)
    classes = one_of(1, 2, 15, 16, 17, 77, 255, 257, 600, 1025, 5003)
    k = min(classes, one_of(1, 1, 5, 5, 31, 64, 200, 1024, classes))
    return make_case(
        rows,
        one_of(1, 3, 16, 33, 64),
        classes,
        min(k, 1024),
        has_bias=one_of(True, False),
        scale=one_of(0.01, 1.0, 1.0, 10.0),
        seed=seed,
        softcap=one_of(0.0, 0.0, 0.5, 5.0),
        layout=one_of("vd", "dv"),
        is_log=one_of(True, False),
        precision=one_of("highest", "highest", "medium"),
    )


def check_random_cases(seeds: range) -> None:
    for seed in seeds:
        try:
            check(random_case(seed))
        except AssertionError as error:
            raise AssertionError(f"random_case({seed}): {error}") from error
