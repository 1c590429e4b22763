"""The true result of linear_cross_entropy, computed in float64 with numpy, and cases to compare with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.tolerances import error_budget, largest_error
from paddle_infra.ops import linear_cross_entropy

NAMES = ("loss", "hidden", "weight", "bias")


@dataclass
class Case:
    """Inputs as float32 or int64 numpy arrays; ``weight`` is [V, D] whatever the layout option."""

    hidden: np.ndarray
    weight: np.ndarray
    label: np.ndarray
    bias: np.ndarray | None = None
    class_weight: np.ndarray | None = None
    token_weight: np.ndarray | None = None
    options: dict[str, Any] = field(default_factory=dict)


def make_case(
    rows: int,
    features: int,
    classes: int,
    *,
    seed: int = 0,
    scale: float = 1.0,
    bias: bool = True,
    ignored: float = 0.0,
    class_weight: bool = False,
    token_weight: bool = False,
    **options: Any,
) -> Case:
    """Random inputs whose logits have a standard deviation of ``scale``; a share ``ignored`` of labels is ignored."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, rows)
    label[rng.random(rows) < ignored] = options.get("ignore_index", -100)
    return Case(
        rng.standard_normal((rows, features)).astype("float32"),
        (scale / np.sqrt(features) * rng.standard_normal((classes, features))).astype("float32"),
        label,
        rng.standard_normal(classes).astype("float32") if bias else None,
        rng.uniform(0.25, 2.0, classes).astype("float32") if class_weight else None,
        rng.uniform(0.25, 2.0, rows).astype("float32") if token_weight else None,
        options,
    )


def gold(case: Case) -> dict[str, np.ndarray]:
    """Loss, and gradients of the sum of the loss, in float64 from the formulas in the documentation."""
    o = case.options
    h, w = case.hidden.astype("float64"), case.weight.astype("float64")
    n, v = len(h), len(w)
    valid = case.label != o.get("ignore_index", -100)
    y = np.where(valid, case.label, 0)
    cw = np.ones(v) if case.class_weight is None else case.class_weight.astype("float64")
    tw = np.ones(n) if case.token_weight is None else case.token_weight.astype("float64")
    eps, z_factor, cap = o.get("label_smoothing", 0.0), o.get("z_loss", 0.0), o.get("softcap", 0.0)

    raw = h @ w.T + (0.0 if case.bias is None else case.bias.astype("float64"))
    z = cap * np.tanh(raw / cap) if cap else raw
    top = z.max(axis=1, keepdims=True, initial=-np.inf)
    lse = top + np.log(np.exp(z - top).sum(axis=1, keepdims=True))
    log_p, p, one_hot = z - lse, np.exp(z - lse), np.arange(v) == y[:, None]
    target = (1 - eps) * one_hot * cw[y][:, None] + eps / v * cw  # sum_c target_c (-log p_c)
    row = -(target * log_p).sum(axis=1) + z_factor * lse[:, 0] ** 2
    scale = np.where(valid, tw, 0.0)
    reduction = o.get("reduction", "mean")
    if reduction == "mean":
        total = (scale * cw[y]).sum()
        scale = scale / total if total else scale * 0.0
    losses = np.where(valid, row, 0.0) * scale
    dz = p * target.sum(axis=1, keepdims=True) - target + 2 * z_factor * lse * p
    dz *= scale[:, None] * (1 - (z / cap) ** 2 if cap else 1.0)
    return {
        "loss": losses if reduction == "none" else losses.sum(),
        "hidden": dz @ w,
        "weight": dz.T @ h,
        "bias": dz.sum(axis=0),
    }


def run(case: Case, impl: str, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Loss and gradients of its sum, of one implementation in dygraph."""
    layout = case.options.get("weight_layout", "vd")
    weight = case.weight if layout == "vd" else np.ascontiguousarray(case.weight.T)
    tensors = {"hidden": case.hidden, "weight": weight, "bias": case.bias}
    inputs = {
        name: paddle.to_tensor(value.astype(dtype), stop_gradient=False)
        for name, value in tensors.items()
        if value is not None
    }
    constants = {
        name: paddle.to_tensor(value)
        for name, value in (("class_weight", case.class_weight), ("token_weight", case.token_weight))
        if value is not None
    }
    loss = linear_cross_entropy(
        **inputs, label=paddle.to_tensor(case.label), **constants, impl=impl, **case.options
    )
    loss.sum().backward()
    result = {"loss": loss.numpy(), **{name: tensor.grad.numpy() for name, tensor in inputs.items()}}
    if layout == "dv":
        result["weight"] = result["weight"].T
    return result


def check(case: Case, factor: float = 1.0, dtype: str = "float32") -> None:
    """Assert that the fused result is as exact as the plain one of the same dtype.

    Args:
        case: what to compute.
        factor: how many times the plain one's error is allowed.
        dtype: whose allowance is added: "bfloat16" for products of rounded numbers.
    """
    truth, plain, fused = gold(case), run(case, "reference"), run(case, "fused")
    assert fused.keys() == plain.keys()
    for name, value in fused.items():
        budget = error_budget(plain[name], truth[name], dtype, factor)
        error = largest_error(value, truth[name])
        assert error <= budget, f"{name}: error {error:.3g}, allowed {budget:.3g}, options {case.options}"


#: Every option non-default at once, and shapes that leave a tail everywhere.
EVERYTHING = {
    "ignored": 0.2,
    "class_weight": True,
    "token_weight": True,
    "ignore_index": -1,
    "label_smoothing": 0.1,
    "z_loss": 1e-3,
    "softcap": 5.0,
    "reduction": "none",
    "weight_layout": "dv",
}

#: A few shapes with tails of every kind, for what is run once per instruction set.
SHAPES_OF_TARGETS = ((1, 1, 2), (13, 17, 19), (65, 49, 241), (100, 384, 10), (130, 123, 507))
