"""The true results of the losses of a linear layer, in float64 with numpy, and cases to compare with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import paddle

from paddle_infra._core.tolerances import error_budget, largest_error
from paddle_infra.ops import set_matmul_precision

#: Class counts at and beside the borders of the three modes of csrc/linear_cross_entropy, which are 16 and 2048.
BORDERS = (2, 15, 16, 17, 1023, 1024, 1025, 2047, 2048, 2049, 5003)


@dataclass
class Case:
    """Inputs as float32 or int64 numpy arrays; ``weight`` is [V, D] whatever the layout option."""

    hidden: np.ndarray
    weight: np.ndarray
    label: np.ndarray  # classes, or targets [rows, V]
    bias: np.ndarray | None = None
    class_weight: np.ndarray | None = None
    token_weight: np.ndarray | None = None
    options: dict[str, Any] = field(default_factory=dict)


class Head(NamedTuple):
    """One of the losses."""

    operator: Callable[..., paddle.Tensor]
    # Of a case and logits: the scaled losses [rows] or [rows, V], and the gradients of their sum by the logits.
    losses: Callable[[Case, np.ndarray], tuple[np.ndarray, np.ndarray]]
    label: str = "label"  # names of arguments
    class_weight: str = "class_weight"


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


def row_scales(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of labels that are classes: which rows count, a class for each, class weights, what losses are multiplied by."""
    rows, classes = len(case.hidden), len(case.weight)
    valid = case.label != case.options.get("ignore_index", -100)
    y = np.where(valid, case.label, 0)
    weights = np.ones(classes) if case.class_weight is None else case.class_weight.astype("float64")
    scale = np.ones(rows) if case.token_weight is None else case.token_weight.astype("float64")
    scale = np.where(valid, scale, 0.0)
    if case.options.get("reduction", "mean") == "mean":
        total = (scale * weights[y]).sum()
        scale = scale / total if total else scale * 0.0
    return valid, y, weights, scale


def log_softmax(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms of the softmax and of its denominator."""
    top = z.max(axis=1, keepdims=True, initial=-np.inf)
    lse = top + np.log(np.exp(z - top).sum(axis=1, keepdims=True))
    return z - lse, lse


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Round to bfloat16 (to even), as float64."""
    bits = x.astype("float32").view("uint32").astype("uint64")
    return (
        ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype("uint32").view("float32").astype("float64")
    )


def gold(head: Head, case: Case, medium: bool = False) -> dict[str, np.ndarray]:
    """Loss, and gradients of the sum of the loss, in float64 from the formulas in the documentation.

    Args:
        head: which loss.
        case: the inputs.
        medium: round the factors of every product to bfloat16, those of the backward pass too.
    """
    h, w = case.hidden.astype("float64"), case.weight.astype("float64")
    if medium:
        h, w = to_bf16(h), to_bf16(w)
    cap = case.options.get("softcap", 0.0)
    raw = h @ w.T + (0.0 if case.bias is None else case.bias.astype("float64"))
    z = cap * np.tanh(raw / cap) if cap else raw
    losses, dz = head.losses(case, z)
    dz = dz * (1 - (z / cap) ** 2 if cap else 1.0)
    factor = to_bf16(dz) if medium else dz
    return {
        "loss": losses if case.options.get("reduction", "mean") == "none" else losses.sum(),
        "hidden": factor @ w,
        "weight": factor.T @ h,
        "bias": dz.sum(axis=0),
    }


def run(head: Head, case: Case, impl: str, dtype: str = "float32", **extra: Any) -> dict[str, np.ndarray]:
    """Loss and gradients of its sum, of one implementation in dygraph."""
    layout = case.options.get("weight_layout", "vd")
    weight = case.weight if layout == "vd" else np.ascontiguousarray(case.weight.T)
    tensors = {"hidden": case.hidden, "weight": weight, "bias": case.bias}
    inputs = {
        name: paddle.to_tensor(value.astype(dtype), stop_gradient=False)
        for name, value in tensors.items()
        if value is not None
    }
    weights = ((head.class_weight, case.class_weight), ("token_weight", case.token_weight))
    constants = {name: paddle.to_tensor(value) for name, value in weights if value is not None}
    constants[head.label] = paddle.to_tensor(case.label)
    loss = head.operator(**inputs, **constants, impl=impl, **case.options, **extra)
    loss.sum().backward()
    result = {"loss": loss.numpy(), **{name: tensor.grad.numpy() for name, tensor in inputs.items()}}
    if layout == "dv":
        result["weight"] = result["weight"].T
    return result


def check(head: Head, case: Case, factor: float = 1.0, dtype: str = "float32") -> None:
    """Assert that the fused result is as exact as the plain one of the same dtype.

    Args:
        head: which loss.
        case: what to compute.
        factor: how many times the plain one's error is allowed.
        dtype: whose allowance is added: "bfloat16" for products of rounded numbers.
    """
    truth, plain, fused = gold(head, case), run(head, case, "reference"), run(head, case, "fused")
    assert fused.keys() == plain.keys()
    for name, value in fused.items():
        budget = error_budget(plain[name], truth[name], dtype, factor)
        error = largest_error(value, truth[name])
        assert error <= budget, f"{name}: error {error:.3g}, allowed {budget:.3g}, options {case.options}"


#: Of the largest value. The kernel rounds gradients of logits that it has in float32, the truth rounds exact ones: of
#: a few thousand, one may fall on the other side of a tie, and differ by 1/256 of itself.
MEDIUM_ALLOWANCE = {"loss": 5e-7, "hidden": 1e-3, "weight": 1e-3, "bias": 1e-6}


def check_medium(head: Head, case: Case) -> None:
    """Assert that "medium" precision is exact for rounded factors."""
    truth = gold(head, case, medium=True)
    with set_matmul_precision("medium"):
        fused = run(head, case, "fused")
    for name, value in fused.items():
        largest = np.abs(truth[name]).max()
        error = largest_error(value, truth[name])
        allowed = MEDIUM_ALLOWANCE[name] * largest
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}, options {case.options}"
