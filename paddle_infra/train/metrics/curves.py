"""Precision and recall of a binary decision at many thresholds, as loggers draw them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Counts at ascending thresholds: an item is predicted positive if its score is at least the threshold.

    Attributes:
        thresholds: float64 [n].
        true_positives: int64 [n].
        false_positives: int64 [n].
        positives: all positive items.
        negatives: all negative items.
    """

    thresholds: npt.NDArray[np.float64]
    true_positives: npt.NDArray[np.int64]
    false_positives: npt.NDArray[np.int64]
    positives: int
    negatives: int

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        """True positives per predicted positive [n]; 1 where nothing is predicted positive, as in scikit-learn."""
        predicted = self.true_positives + self.false_positives
        return np.where(predicted, self.true_positives / np.maximum(predicted, 1), 1.0)

    @property
    def recall(self) -> npt.NDArray[np.float64]:
        """True positives per positive [n]; 0 if there is none."""
        return self.true_positives / max(self.positives, 1)

    @property
    def true_negatives(self) -> npt.NDArray[np.int64]:
        """Negative items below the threshold [n]."""
        return self.negatives - self.false_positives

    @property
    def false_negatives(self) -> npt.NDArray[np.int64]:
        """Positive items below the threshold [n]."""
        return self.positives - self.true_positives
