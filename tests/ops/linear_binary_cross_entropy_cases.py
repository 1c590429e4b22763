"""The true result of linear_binary_cross_entropy, and cases to compare with it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from paddle_infra.ops import linear_binary_cross_entropy
from tests.ops import head_cases
from tests.ops.head_cases import Case, Head


def make_case(rows: int, features: int, classes: int, *, soft: bool = False, **options: Any) -> Case:
    """Random inputs; targets are 0 or 1, or with ``soft`` anything between."""
    case = head_cases.make_case(rows, features, classes, **options)
    target = np.random.default_rng([rows, classes]).random((rows, classes)).astype("float32")
    case.label = target if soft else (target < 0.3).astype("float32")
    return case


def losses(case: Case, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scaled losses of rows and classes, and the gradients of their sum by the logits."""
    rows, classes = z.shape
    t = case.label.astype("float64")
    positive = t * (1.0 if case.class_weight is None else case.class_weight.astype("float64"))
    scale = np.ones(rows) if case.token_weight is None else case.token_weight.astype("float64")
    if case.options.get("reduction", "mean") == "mean":
        total = scale.sum() * classes
        scale = scale / total if total else scale * 0.0
    scale = scale[:, None]
    each = positive * np.logaddexp(0.0, -z) + (1.0 - t) * np.logaddexp(0.0, z)
    sigmoid = np.exp(-np.logaddexp(0.0, -z))
    return each * scale, (sigmoid * (positive + 1.0 - t) - positive) * scale


HEAD = Head(linear_binary_cross_entropy, losses, "target", "pos_weight")
gold, run, check = (
    partial(head_cases.gold, HEAD),
    partial(head_cases.run, HEAD),
    partial(head_cases.check, HEAD),
)
check_medium = partial(head_cases.check_medium, HEAD)

#: Every option non-default at once.
EVERYTHING = {
    "soft": True,
    "class_weight": True,
    "token_weight": True,
    "softcap": 5.0,
    "reduction": "none",
    "weight_layout": "dv",
}

__all__ = ["EVERYTHING", "HEAD", "Case", "check", "check_medium", "gold", "make_case", "run"]
