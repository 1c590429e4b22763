"""Streaming top-k accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.batches import IGNORE_INDEX


class TopKAccuracy:
    """Share of labels among the k classes with the highest logits, as ``top_<k>_accuracy``.

    Of equal logits the class with the lower index ranks first, as for ``argmax``, so that k = 1 is
    :class:`~paddle_infra.train.Accuracy`. The evaluation step returns ``labels`` (any shape) and ``logits`` (one more
    axis, last, over the classes). NaN ranks below everything.

    Args:
        k: how many classes count.
        ignore_index: label to leave out.
    """

    def __init__(self, k: int, *, ignore_index: int = IGNORE_INDEX) -> None:
        if k < 1:
            raise InvalidInputError(f"TopKAccuracy: k: expected at least 1, got {k}")
        self.k, self.ignore_index = k, ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self._hits, self._items = 0, 0

    def update(self, *, labels: Any = None, logits: Any = None, **_: Any) -> None:
        """Add one batch.

        Raises:
            InvalidInputError: an input is missing, shapes do not fit, or a label is out of range.
        """
        if labels is None or logits is None:
            raise InvalidInputError("TopKAccuracy: expected the evaluation outputs 'labels' and 'logits'")
        labels, logits = np.asarray(labels), np.asarray(logits)
        if logits.ndim != labels.ndim + 1 or logits.shape[:-1] != labels.shape:
            raise InvalidInputError(
                f"TopKAccuracy: expected logits of shape {[*labels.shape, 'classes']}, got {list(logits.shape)}"
            )
        valid = labels != self.ignore_index
        gold, scores = labels[valid], logits[valid]
        classes = logits.shape[-1]
        wrong = gold[(gold < 0) | (gold >= classes)]
        if wrong.size:
            raise InvalidInputError(
                f"TopKAccuracy: expected a label from 0 to {classes - 1}, got {int(wrong[0])}"
            )
        scores = np.where(np.isnan(scores), -np.inf, scores)
        own = np.take_along_axis(scores, gold[:, None], axis=-1)
        before = (scores > own) | ((scores == own) & (np.arange(classes) < gold[:, None]))
        self._hits += int(np.count_nonzero(before.sum(axis=-1) < self.k))
        self._items += gold.size

    def state(self) -> tuple[int, int]:
        """Return hits and items."""
        return self._hits, self._items

    def add_state(self, state: tuple[int, int]) -> None:
        """Add the hits and items of another process."""
        self._hits, self._items = self._hits + state[0], self._items + state[1]

    def compute(self) -> dict[str, float]:
        """Return the share; 0 if there was no valid label."""
        return {f"top_{self.k}_accuracy": self._hits / self._items if self._items else 0.0}
