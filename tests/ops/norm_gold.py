"""True norms of rows and their gradients: float64 numpy, straight from the definition, without any of the library.

Beside every result there is its size: how large it becomes from one rounding error in each step before it, relative to
that error. Where terms cancel, both implementations are wrong by about that, and either may be the one that is more so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paddle_infra._core.tolerances import error_budget, largest_error
from tests.ops.attention_gold import dropout_bits

#: A few roundings to float32 (6e-8 each) on the way to a result.
ROUNDING = 3e-7


def dropout_factor(seed: int | None, rows: int, size: int, dropout_p: float) -> np.ndarray:
    """What dropout multiplies with: 0 or 1 / (1 - p)."""
    if not dropout_p:
        return np.ones((rows, size))
    bits = dropout_bits(seed, 1, rows, size)[0]
    return (bits >= int(float(np.float32(dropout_p)) * 2.0**32)) / (1.0 - dropout_p)


@dataclass
class NormGold:
    """Results for rows x, which come with an error of ``x_size`` (0: exact), and gradients for ``grad_out``."""

    out: np.ndarray
    grad_x: np.ndarray
    grad_weight: np.ndarray
    grad_bias: np.ndarray
    sizes: dict[str, float]
    grad_x_size: np.ndarray


def norm_gold(
    x: np.ndarray,
    x_size: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    grad_out: np.ndarray,
    is_rms: bool,
    epsilon: float,
) -> NormGold:
    """Compute everything of [rows, size]."""

    def mean(v: np.ndarray) -> np.ndarray:
        return v.mean(axis=1, keepdims=True)

    d = x if is_rms else x - mean(x)
    rstd = 1.0 / np.sqrt(mean(d * d) + float(np.float32(epsilon)))
    n = d * rstd
    n_size = np.abs(n) + rstd * (x_size + mean(x_size))
    g = grad_out * weight
    slope = mean(g * n)
    grad_x = rstd * (g - (0.0 if is_rms else mean(g)) - n * slope)
    slope_size = mean(np.abs(g) * (np.abs(n) + n_size))
    grad_x_size = rstd * (np.abs(g) + mean(np.abs(g)) + n_size * np.abs(slope) + np.abs(n) * slope_size)
    # The factor rstd itself: an error of the row is one of its size.
    grad_x_size = grad_x_size + np.abs(grad_x) * rstd * mean(x_size * np.abs(n))
    sizes = {
        "out": np.abs(weight) * n_size + np.abs(bias),
        "weight": (np.abs(grad_out) * n_size).sum(axis=0),
        "bias": np.abs(grad_out).sum(axis=0),
    }
    return NormGold(
        n * weight + bias,
        grad_x,
        (grad_out * n).sum(axis=0),
        grad_out.sum(axis=0),
        {name: float(size.max(initial=0.0)) for name, size in sizes.items()},
        grad_x_size,
    )


def assert_exact(
    fused: dict[str, np.ndarray],
    plain: dict[str, np.ndarray],
    true: dict[str, np.ndarray],
    sizes: dict[str, float],
) -> None:
    """Assert that fused float32 results are as exact as the plain ones, up to a few roundings."""
    assert fused.keys() == plain.keys()
    for name, value in fused.items():
        budget = error_budget(plain[name], true[name], "float32") + ROUNDING * sizes[name]
        error = largest_error(value, true[name])
        assert error <= budget, f"{name}: error {error:.3g}, allowed {budget:.3g}"
