r"""Streaming metrics for regression, from exact sums: the same bits however the items are split or ordered.

With labels :math:`y_i` and predictions :math:`p_i`,

.. math:: \mathrm{MAE} = \frac1n \sum_i |p_i - y_i|, \quad \mathrm{MSE} = \frac1n \sum_i (p_i - y_i)^2, \quad
    R^2 = 1 - \frac{\sum_i (p_i - y_i)^2}{\sum_i y_i^2 - (\sum_i y_i)^2 / n}

The evaluation step returns ``labels`` and ``predictions`` of one shape; all elements count alike.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.metrics.base import ExactSum

_SPLIT = 134217729.0  # 2**27 + 1: splits a float64 into two halves whose products are exact


class _ErrorSum(ABC):
    """The number of items and exact sums over them, in :attr:`sums`."""

    _names: tuple[str, ...] = ("errors",)

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self.count, self.sums = 0, {name: ExactSum() for name in self._names}

    def update(self, *, labels: Any = None, predictions: Any = None, **_: Any) -> None:
        """Add one batch.

        Raises:
            InvalidInputError: an input is missing, or the shapes differ.
        """
        who = type(self).__name__
        if labels is None or predictions is None:
            raise InvalidInputError(f"{who}: expected the evaluation outputs 'labels' and 'predictions'")
        gold, predicted = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
        if gold.shape != predicted.shape:
            raise InvalidInputError(
                f"{who}: expected predictions of the labels' shape {list(gold.shape)}, "
                f"got {list(predicted.shape)}"
            )
        self.count += gold.size
        if gold.size:
            self._add(gold, predicted)

    @abstractmethod
    def _add(self, gold: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]) -> None:
        """Add what these items are worth to the sums."""

    def state(self) -> tuple[int, dict[str, list[float]]]:
        """Return the number of items and the sums, in exact parts."""
        return self.count, {name: list(total.parts) for name, total in self.sums.items()}

    def add_state(self, state: tuple[int, dict[str, list[float]]]) -> None:
        """Add the items of another process."""
        self.count += state[0]
        for name, parts in state[1].items():
            for part in parts:
                self.sums[name].add(part)

    def _mean(self, name: str) -> float:
        return self.sums[name].value() / self.count if self.count else math.nan


class MeanAbsoluteError(_ErrorSum):
    """Mean absolute error, as ``mean_absolute_error``; NaN if there was no item."""

    def _add(self, gold: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]) -> None:
        self.sums["errors"].add_all(np.abs(predicted - gold))

    def compute(self) -> dict[str, float]:
        """Return ``{"mean_absolute_error": value}``."""
        return {"mean_absolute_error": self._mean("errors")}


class MeanSquaredError(_ErrorSum):
    """Mean squared error and its square root, as ``mean_squared_error`` and ``root_mean_squared_error``."""

    def _add(self, gold: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]) -> None:
        self.sums["errors"].add_all(np.square(predicted - gold))

    def compute(self) -> dict[str, float]:
        """Return both; NaN if there was no item."""
        mean = self._mean("errors")
        return {"mean_squared_error": mean, "root_mean_squared_error": math.sqrt(mean)}


class R2(_ErrorSum):
    """Coefficient of determination, as ``r2``, over all elements together.

    The variance of the labels is computed without rounding (their squares too are split into exact parts), so
    that labels far from 0 lose nothing.
    """

    _names = ("errors", "labels", "squares")

    def _add(self, gold: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]) -> None:
        self.sums["errors"].add_all(np.square(predicted - gold))
        self.sums["labels"].add_all(gold)
        square, rest = _exact_squares(gold)
        self.sums["squares"].add_all(square)
        self.sums["squares"].add_all(rest)

    def compute(self) -> dict[str, float]:
        """Return ``{"r2": value}``; NaN for fewer than two items, equal labels, or values that are not finite."""
        is_finite = all(map(math.isfinite, (total.value() for total in self.sums.values())))
        if self.count < 2 or not is_finite:
            return {"r2": math.nan}
        spread = self.sums["squares"].exact() - self.sums["labels"].exact() ** 2 / self.count
        return {"r2": float(1 - self.sums["errors"].exact() / spread) if spread else math.nan}


def _exact_squares(
    values: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the rounded squares and what the rounding lost (Dekker, 1971; exact below 1e150 and above 1e-150)."""
    square = np.square(values)
    high = values * _SPLIT - (values * _SPLIT - values)
    low = values - high
    return square, ((high * high - square) + 2 * high * low) + low * low
