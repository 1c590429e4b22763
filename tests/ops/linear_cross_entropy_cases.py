"""The true result of linear_cross_entropy, and cases to compare with it."""

from __future__ import annotations

from functools import partial

import numpy as np

from paddle_infra.ops import linear_cross_entropy
from tests.ops import head_cases
from tests.ops.head_cases import Case, Head, log_softmax, make_case, row_scales

NAMES = ("loss", "hidden", "weight", "bias")


def losses(case: Case, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scaled losses of rows, and the gradients of their sum by the logits."""
    valid, y, weights, scale = row_scales(case)
    eps, z_factor = case.options.get("label_smoothing", 0.0), case.options.get("z_loss", 0.0)
    classes = len(case.weight)
    log_p, lse = log_softmax(z)
    p, one_hot = np.exp(log_p), np.arange(classes) == y[:, None]
    target = (1 - eps) * one_hot * weights[y][:, None] + eps / classes * weights  # sum_c target_c (-log p_c)
    row = -(target * log_p).sum(axis=1) + z_factor * lse[:, 0] ** 2
    dz = p * target.sum(axis=1, keepdims=True) - target + 2 * z_factor * lse * p
    return np.where(valid, row, 0.0) * scale, dz * scale[:, None]


HEAD = Head(linear_cross_entropy, losses)
gold, run, check = (
    partial(head_cases.gold, HEAD),
    partial(head_cases.run, HEAD),
    partial(head_cases.check, HEAD),
)
check_medium = partial(head_cases.check_medium, HEAD)

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

#: A few shapes with tails of every kind, for what is run once per instruction set; the last two in several chunks.
SHAPES_OF_TARGETS = (
    *((1, 1, 2), (13, 17, 19), (65, 49, 241), (100, 384, 10), (130, 123, 507), (70, 33, 2050)),
    *((1100, 5, 2000), (450, 6, 5003)),
)

__all__ = [
    "EVERYTHING",
    "HEAD",
    "NAMES",
    "SHAPES_OF_TARGETS",
    "Case",
    "check",
    "check_medium",
    "gold",
    "make_case",
    "run",
]
