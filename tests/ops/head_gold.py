"""The true results of linear_focal and linear_binary_cross_entropy, in float64 with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np


def _logits(arrays: dict[str, np.ndarray], softcap: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and their slope with respect to what goes into softcap."""
    raw = arrays["hidden"].astype("float64") @ arrays["weight"].astype("float64").T
    if "bias" in arrays:
        raw = raw + arrays["bias"].astype("float64")
    if not softcap:
        return raw, np.ones_like(raw)
    z = softcap * np.tanh(raw / softcap)
    return z, 1.0 - (z / softcap) ** 2


def _finish(
    arrays: dict[str, np.ndarray], dz: np.ndarray, loss: np.ndarray, reduction: str
) -> dict[str, np.ndarray]:
    return {
        "loss": loss if reduction == "none" else loss.sum(),
        "hidden": dz @ arrays["weight"].astype("float64"),
        "weight": dz.T @ arrays["hidden"].astype("float64"),
        "bias": dz.sum(axis=0),
    }


def focal(arrays: dict[str, np.ndarray], gamma: float, **o: Any) -> dict[str, np.ndarray]:
    """Loss, and gradients of its sum; ``arrays`` by the names of the arguments, weight [V, D]."""
    z, slope = _logits(arrays, o.get("softcap", 0.0))
    label, reduction = arrays["label"], o.get("reduction", "mean")
    valid = label != o.get("ignore_index", -100)
    y = np.where(valid, label, 0)
    top = z.max(axis=1, keepdims=True)
    log_p = z - top - np.log(np.exp(z - top).sum(axis=1, keepdims=True))
    log_py = np.take_along_axis(log_p, y[:, None], 1)
    rest = -np.expm1(log_py)
    scale = np.where(valid, arrays.get("token_weight", np.ones(len(y))), 0.0).astype("float64")
    weight = arrays.get("class_weight", np.ones(z.shape[1])).astype("float64")[y]
    if reduction == "mean":
        total = (scale * weight).sum()
        scale = scale / total if total else 0.0 * scale
    loss = np.where(valid, (weight * (-log_py * rest**gamma)[:, 0]), 0.0) * scale
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = rest**gamma - np.where(
            rest > 0, gamma * np.exp(log_py) * log_py * rest ** (gamma - 1.0), 0.0
        )
    one_hot = np.arange(z.shape[1]) == y[:, None]
    dz = (np.exp(log_p) - one_hot) * factor * (weight * scale)[:, None] * slope
    return _finish(arrays, dz, loss, reduction)


def binary(arrays: dict[str, np.ndarray], **o: Any) -> dict[str, np.ndarray]:
    """The same of binary cross entropy."""
    z, slope = _logits(arrays, o.get("softcap", 0.0))
    target, reduction = arrays["target"].astype("float64"), o.get("reduction", "mean")
    q = arrays.get("pos_weight", np.ones(z.shape[1])).astype("float64")
    scale = arrays.get("token_weight", np.ones(len(z))).astype("float64")
    if reduction == "mean":
        total = scale.sum() * z.shape[1]
        scale = scale / total if total else 0.0 * scale
    loss = (q * target * np.logaddexp(0, -z) + (1 - target) * np.logaddexp(0, z)) * scale[:, None]
    sigmoid = 0.5 * (1.0 + np.tanh(0.5 * z))
    dz = (sigmoid * (q * target + 1 - target) - q * target) * scale[:, None] * slope
    return _finish(arrays, dz, loss, reduction)
