"""Streaming F1 for items that have any number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.batches import IGNORE_INDEX
from paddle_infra.train.metrics.classification import Score, mean_scores, score


class MultilabelF1:
    """Precision, recall and F1 per class, with ``micro_f1``, ``macro_f1`` and ``weighted_f1``.

    The averages run over all classes, as scikit-learn's do for indicator matrices (a class that never occurs counts
    as 0). The evaluation step returns ``labels`` [..., classes] of 0 and 1 and either ``predictions`` (same shape, 0
    and 1) or ``scores`` (same shape), which predict a class from ``threshold`` on. Single entries whose label is
    ``ignore_index`` are left out.

    Args:
        names: class names by index, or the number of classes.
        threshold: least score of a predicted class.
        ignore_index: label to leave out.

    Attributes:
        counts: int64 [3, classes]: hits, predicted, labels.
    """

    def __init__(
        self, names: Sequence[str] | int, *, threshold: float = 0.5, ignore_index: int = IGNORE_INDEX
    ) -> None:
        self.names = [str(i) for i in range(names)] if isinstance(names, int) else list(names)
        if not self.names:
            raise InvalidInputError("MultilabelF1: expected at least one class, got none")
        self.threshold, self.ignore_index = threshold, ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self.counts: npt.NDArray[np.int64] = np.zeros((3, len(self.names)), np.int64)

    def update(self, *, labels: Any = None, predictions: Any = None, scores: Any = None, **_: Any) -> None:
        """Add one batch.

        Raises:
            InvalidInputError: an input is missing, shapes do not fit, or a value is neither 0 nor 1.
        """
        if labels is None or (predictions is None and scores is None):
            raise InvalidInputError(
                "MultilabelF1: expected the evaluation outputs 'labels' and 'predictions' or 'scores'"
            )
        gold = np.asarray(labels)
        predicted = np.asarray(scores) >= self.threshold if predictions is None else np.asarray(predictions)
        if gold.shape != predicted.shape or gold.ndim < 1 or gold.shape[-1] != len(self.names):
            raise InvalidInputError(
                f"MultilabelF1: expected labels and predictions of one shape [..., {len(self.names)}], "
                f"got {list(gold.shape)} and {list(predicted.shape)}"
            )
        valid = gold != self.ignore_index
        for what, values in (("label", gold), ("prediction", predicted)):
            wrong = values[valid & (values != 0) & (values != 1)]
            if wrong.size:
                raise InvalidInputError(f"MultilabelF1: expected a {what} 0 or 1, got {wrong[0]}")
        is_gold, is_predicted = valid & (gold == 1), valid & (predicted == 1)
        rows = (is_gold & is_predicted, is_predicted, is_gold)
        self.counts += np.stack([row.reshape(-1, len(self.names)).sum(axis=0) for row in rows])

    def state(self) -> npt.NDArray[np.int64]:
        """Return the counts."""
        return self.counts

    def add_state(self, state: npt.NDArray[np.int64]) -> None:
        """Add the counts of another process."""
        self.counts = self.counts + state

    def compute(self) -> dict[str, float]:
        """Return the three averages."""
        return {f"{row.name}_f1": row.f1 for row in self.averages()}

    def table(self) -> list[Score]:
        """Return one row per class, in the order of the names."""
        return [score(name, *column) for name, column in zip(self.names, self.counts.T, strict=True)]

    def averages(self) -> list[Score]:
        """Return the rows "micro", "macro" and "weighted"."""
        return [score("micro", *self.counts.sum(axis=1)), *mean_scores(self.table())]
