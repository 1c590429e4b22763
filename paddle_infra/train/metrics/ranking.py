r"""Streaming ranking quality of a binary score: ROC-AUC and average precision from counts in bins."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.batches import IGNORE_INDEX
from paddle_infra.train.metrics.curves import PrecisionRecallCurve


class BinaryRanking:
    r"""Area under the ROC curve and average precision, as ``roc_auc`` and ``average_precision``.

    Positive and negative items are counted in ``bins`` equally wide bins of the score: memory is 16 bytes per bin,
    whatever the number of items. The values are those of the scores rounded down to their bins, exactly as
    scikit-learn computes them from such scores. Against the scores themselves, only pairs within one bin can be wrong:
    with :math:`p_b, n_b` items of bin *b*,

    .. math:: |\mathrm{AUC} - \mathrm{AUC}_{\mathrm{exact}}| \le \frac{\sum_b p_b n_b}{2 \sum_b p_b \sum_b n_b}

    and :meth:`error_bounds` returns this bound, and one for average precision, for the items at hand. For exact values
    of not too many items use :class:`~paddle_infra.train.CollectedMetric` with scikit-learn's functions.

    The evaluation step returns ``labels`` (0 or 1, any shape; ``ignore_index`` is left out) and ``scores`` (same
    shape, from 0 to 1, higher for 1: a probability).

    Args:
        bins: number of bins.
        ignore_index: label to leave out.

    Attributes:
        counts: int64 [2, bins]; negative items, then positive ones.
    """

    def __init__(self, *, bins: int = 65536, ignore_index: int = IGNORE_INDEX) -> None:
        if bins < 2:
            raise InvalidInputError(f"BinaryRanking: bins: expected at least 2, got {bins}")
        self.bins, self.ignore_index = bins, ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self.counts: npt.NDArray[np.int64] = np.zeros((2, self.bins), np.int64)

    def update(self, *, labels: Any = None, scores: Any = None, **_: Any) -> None:
        """Add one batch.

        Raises:
            InvalidInputError: an input is missing, shapes differ, a label is not 0 or 1, or a score is not from 0
                to 1.
        """
        if labels is None or scores is None:
            raise InvalidInputError("BinaryRanking: expected the evaluation outputs 'labels' and 'scores'")
        gold, values = np.asarray(labels), np.asarray(scores, np.float64)
        if gold.shape != values.shape:
            raise InvalidInputError(
                f"BinaryRanking: expected scores of the labels' shape {list(gold.shape)}, got {list(values.shape)}"
            )
        valid = gold != self.ignore_index
        gold, values = gold[valid], values[valid]
        wrong = gold[(gold != 0) & (gold != 1)]
        if wrong.size:
            raise InvalidInputError(f"BinaryRanking: expected a label 0 or 1, got {wrong[0]}")
        outside = values[~((values >= 0) & (values <= 1))]
        if outside.size:
            raise InvalidInputError(f"BinaryRanking: expected a score from 0 to 1, got {outside[0]}")
        bins = np.minimum((values * self.bins).astype(np.int64), self.bins - 1)
        for label in (0, 1):
            self.counts[label] += np.bincount(bins[gold == label], minlength=self.bins)

    def state(self) -> npt.NDArray[np.int64]:
        """Return the counts."""
        return self.counts

    def add_state(self, state: npt.NDArray[np.int64]) -> None:
        """Add the counts of another process."""
        self.counts = self.counts + state

    def compute(self) -> dict[str, float]:
        """Return both values; NaN where a class that they need has no item."""
        return {"roc_auc": self._roc_auc(), "average_precision": self._average_precision()}

    def error_bounds(self) -> dict[str, float]:
        """Return how far each value can be from that of the unrounded scores; NaN where there is no value."""
        negatives, positives = self.counts
        pairs = int(negatives.sum()) * int(positives.sum())
        shared = sum(n * p for n, p in zip(negatives.tolist(), positives.tolist(), strict=True) if n and p)
        lowest, highest = self._precision_limits()
        value = self._average_precision()
        return {
            "roc_auc": shared / 2 / pairs if pairs else math.nan,
            "average_precision": max(highest - value, value - lowest),
        }

    def curves(self, thresholds: int = 101) -> dict[str, PrecisionRecallCurve]:
        """Return the precision-recall curve at so many equally spaced thresholds from 0 to 1 (nearest bins)."""
        edges = np.linspace(0, 1, thresholds)
        first = np.minimum(np.round(edges * self.bins).astype(np.int64), self.bins)
        negatives, positives = (np.append(_from_top(row), 0)[first] for row in self.counts)
        return {
            "precision_recall": PrecisionRecallCurve(
                first / self.bins, positives, negatives, int(self.counts[1].sum()), int(self.counts[0].sum())
            )
        }

    def _roc_auc(self) -> float:
        negatives, positives = (row.tolist() for row in self.counts)
        pairs = sum(negatives) * sum(positives)
        below, twice = 0, 0  # Python integers: the products may exceed 64 bits
        for n, p in zip(negatives, positives, strict=True):
            twice += p * (2 * below + n)
            below += n
        return twice / (2 * pairs) if pairs else math.nan

    def _average_precision(self) -> float:
        negatives, positives = self.counts
        total = int(positives.sum())
        true, predicted = _from_top(positives), _from_top(positives + negatives)
        precision = true / np.maximum(predicted, 1)
        return float(math.fsum(positives * precision) / total) if total else math.nan

    def _precision_limits(self) -> tuple[float, float]:
        r"""Return limits of the average precision over all orders of the items within each bin.

        Let *t* positive and *f* negative items rank above a bin with *p* and *n*. The precision at its *i*-th
        positive is at most :math:`(t + p) / (t + f + p)`, with all positives of the bin at or above its threshold and
        no negative; at least :math:`(t + i) / (s + i)` with :math:`s = t + f + n`, whose sum over *i* is at
        least :math:`p - (s - t) \ln(1 + p / s)`.
        """
        negatives, positives = self.counts
        total = int(positives.sum())
        if not total:
            return math.nan, math.nan
        used = np.flatnonzero(positives)
        p, n = positives[used].astype(np.float64), negatives[used].astype(np.float64)
        t, f = _from_top(positives)[used] - p, _from_top(negatives)[used] - n
        highest = p * (t + p) / (t + f + p)
        s = t + f + n
        lowest = p - (s - t) * np.log1p(p / np.maximum(s, 1e-300))
        return math.fsum(np.where(s > 0, lowest, p)) / total, math.fsum(highest) / total


def _from_top(row: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each bin how many items are in it and the bins above."""
    return np.cumsum(row[::-1])[::-1]
