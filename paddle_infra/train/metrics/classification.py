r"""Streaming metrics for classification: everything comes from one confusion matrix.

For class *c* with :math:`tp` correct predictions, :math:`n_p` predictions and :math:`n_g` labels,

.. math:: P = tp / n_p, \quad R = tp / n_g, \quad F_1 = 2 P R / (P + R)

and 0 where a denominator is 0. Averages run over the classes that occur as a label or as a prediction, as in
scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.batches import IGNORE_INDEX


@dataclass(frozen=True)
class Score:
    """One row of a table: a class, or an average over classes.

    Attributes:
        name: class name, or "micro", "macro", "weighted".
        precision: share of the predictions that are right.
        recall: share of the labels that were found.
        f1: harmonic mean of the two.
        support: number of labels.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class ConfusionMatrix:
    """Counts of (label, prediction) pairs.

    The evaluation step returns ``labels`` (integers, any shape) and either ``predictions`` (same shape) or
    ``logits`` (one more axis, last, over the classes). Labels equal to ``ignore_index`` are left out.

    Args:
        names: class names by index, or the number of classes.
        ignore_index: label to leave out.

    Attributes:
        names: class names by index.
        matrix: int64 [classes, classes]; rows are labels, columns predictions.
    """

    def __init__(self, names: Sequence[str] | int, *, ignore_index: int = IGNORE_INDEX) -> None:
        self.names = [str(i) for i in range(names)] if isinstance(names, int) else list(names)
        if not self.names:
            raise InvalidInputError(f"{type(self).__name__}: expected at least one class, got none")
        self.ignore_index = ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self.matrix: npt.NDArray[np.int64] = np.zeros((len(self.names), len(self.names)), np.int64)

    def update(self, *, labels: Any = None, predictions: Any = None, logits: Any = None, **_: Any) -> None:
        """Add one batch.

        Raises:
            InvalidInputError: an input is missing, shapes differ, or a class is out of range.
        """
        labels, predictions = labels_and_predictions(type(self).__name__, labels, predictions, logits)
        valid = labels != self.ignore_index
        gold, predicted = labels[valid], predictions[valid]
        count = len(self.names)
        for what, values in (("label", gold), ("prediction", predicted)):
            wrong = values[(values < 0) | (values >= count)]
            if wrong.size:
                raise InvalidInputError(
                    f"{type(self).__name__}: expected a {what} from 0 to {count - 1}, got {int(wrong[0])}"
                )
        pairs = gold.astype(np.int64) * count + predicted.astype(np.int64)
        self.matrix += np.bincount(pairs, minlength=count * count).reshape(count, count)

    def state(self) -> npt.NDArray[np.int64]:
        """Return the matrix."""
        return self.matrix

    def add_state(self, state: npt.NDArray[np.int64]) -> None:
        """Add the matrix of another process."""
        self.matrix = self.matrix + state

    def compute(self) -> dict[str, float]:
        """Return no scalar: read :attr:`matrix`."""
        return {}


class Accuracy(ConfusionMatrix):
    """Share of right predictions, as ``accuracy``. Inputs and arguments: see :class:`ConfusionMatrix`."""

    def compute(self) -> dict[str, float]:
        """Return ``{"accuracy": value}``; 0 if there was no valid label."""
        return {"accuracy": _ratio(np.trace(self.matrix), self.matrix.sum())}


class F1(ConfusionMatrix):
    """``macro_f1``, ``micro_f1`` and ``weighted_f1``. Inputs and arguments: see :class:`ConfusionMatrix`.

    With one label per item and no class left out, micro-F1 equals accuracy.
    """

    def compute(self) -> dict[str, float]:
        """Return the three averages."""
        return {f"{row.name}_f1": row.f1 for row in self.averages()}

    def table(self) -> list[Score]:
        """Return one row per class, in the order of the names."""
        return class_scores(self.matrix, self.names)

    def averages(self) -> list[Score]:
        """Return the rows "micro", "macro" and "weighted"."""
        return average_scores(self.matrix, list(range(len(self.names))))


def labels_and_predictions(
    who: str, labels: Any, predictions: Any, logits: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return labels and predicted classes, of one shape.

    Raises:
        InvalidInputError: an input is missing, or the shapes differ.
    """
    if labels is None or (predictions is None and logits is None):
        raise InvalidInputError(
            f"{who}: expected the evaluation outputs 'labels' and 'predictions' or 'logits'"
        )
    labels = np.asarray(labels)
    predictions = np.asarray(logits).argmax(axis=-1) if predictions is None else np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise InvalidInputError(
            f"{who}: expected predictions of the labels' shape {list(labels.shape)}, "
            f"got {list(predictions.shape)}"
        )
    return labels, predictions


def class_scores(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> list[Score]:
    """Return one row per class of a confusion matrix (rows: labels, columns: predictions)."""
    hits, predicted, gold = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    return [score(*row) for row in zip(names, hits, predicted, gold, strict=True)]


def average_scores(matrix: npt.NDArray[np.int64], classes: Sequence[int]) -> list[Score]:
    """Return the micro, macro and weighted averages over those of ``classes`` that occur."""
    hits, predicted, gold = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    used = [c for c in classes if predicted[c] or gold[c]]
    rows = [score("", hits[c], predicted[c], gold[c]) for c in used]
    micro = score("micro", hits[used].sum(), predicted[used].sum(), gold[used].sum())
    return [micro, *mean_scores(rows)]


def mean_scores(rows: Sequence[Score]) -> list[Score]:
    """Return the unweighted mean of the rows ("macro") and the mean weighted by support ("weighted")."""
    support = sum(row.support for row in rows)
    means = []
    for name, weights in (("macro", [1] * len(rows)), ("weighted", [row.support for row in rows])):
        precision, recall, f1 = (
            _ratio(sum(w * getattr(row, column) for w, row in zip(weights, rows, strict=True)), sum(weights))
            for column in ("precision", "recall", "f1")
        )
        means.append(Score(name, precision, recall, f1, support))
    return means


def score(name: str, hits: int, predicted: int, gold: int) -> Score:
    """Return precision, recall and F1 from counts; 0 where a denominator is 0."""
    return Score(
        name,
        _ratio(hits, predicted),
        _ratio(hits, gold),
        _ratio(2 * hits, predicted + gold),
        support=int(gold),
    )


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator) / float(denominator) if denominator else 0.0
