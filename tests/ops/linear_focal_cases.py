"""The true result of linear_focal, and cases to compare with it."""

from __future__ import annotations

from functools import partial

import numpy as np

from paddle_infra.ops import linear_focal
from tests.ops import head_cases
from tests.ops.head_cases import Case, Head, log_softmax, make_case, row_scales


def losses(case: Case, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scaled losses of rows, and the gradients of their sum by the logits."""
    valid, y, weights, scale = row_scales(case)
    gamma = case.options.get("gamma", 2.0)
    log_p, _ = log_softmax(z)
    one_hot = np.arange(len(case.weight)) == y[:, None]
    own = log_p[np.arange(len(y)), y]
    rest = -np.expm1(own)
    row = -weights[y] * rest**gamma * own
    # d/d(log p) of -(1 - p)^g log p, times d(log p)/dz = [c = y] - p_c.
    slope = rest**gamma
    if gamma:
        with np.errstate(divide="ignore", invalid="ignore"):
            grown = gamma * np.exp(own) * own * rest ** (gamma - 1.0)
        slope = slope - np.where(rest == 0.0, 0.0, grown)
    dz = (scale * weights[y] * slope)[:, None] * (np.exp(log_p) - one_hot)
    return np.where(valid, row, 0.0) * scale, dz


HEAD = Head(linear_focal, losses)
gold, run, check = (
    partial(head_cases.gold, HEAD),
    partial(head_cases.run, HEAD),
    partial(head_cases.check, HEAD),
)
check_medium = partial(head_cases.check_medium, HEAD)

#: Every option non-default at once.
EVERYTHING = {
    "gamma": 1.5,
    "ignored": 0.2,
    "class_weight": True,
    "token_weight": True,
    "ignore_index": -1,
    "softcap": 5.0,
    "reduction": "none",
    "weight_layout": "dv",
}

__all__ = ["EVERYTHING", "HEAD", "Case", "check", "check_medium", "gold", "make_case", "run"]
