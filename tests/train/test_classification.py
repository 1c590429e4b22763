from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import F1, Accuracy, ConfusionMatrix
from paddle_infra.train.metrics.classification import Score

GENERATOR = np.random.default_rng(0)


def random_case(classes: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (some ignored), predictions (some classes never), and which labels are valid."""
    labels = GENERATOR.integers(classes, size=size)
    predictions = np.where(
        GENERATOR.random(size) < 0.6, labels, GENERATOR.integers(max(1, classes - 2), size=size)
    )
    labels[GENERATOR.random(size) < 0.2] = -100
    return labels, predictions, labels != -100


# scikit-learn 1.7, the last for Python 3.10, takes so many classes for a regression.
@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
@pytest.mark.parametrize(("classes", "size"), [(2, 1), (2, 50), (3, 7), (6, 300), (11, 13), (40, 60)])
def test_equal_to_scikit_learn_whatever_the_batches(classes: int, size: int) -> None:
    for _ in range(20):
        labels, predictions, valid = random_case(classes, size)
        if not valid.any():
            continue
        metrics = [Accuracy(classes), F1(classes), ConfusionMatrix(classes)]
        for part in np.array_split(np.arange(size), 3):
            for metric in metrics:
                metric.update(labels=labels[part], predictions=predictions[part], loss=0.0)
        gold, predicted = labels[valid], predictions[valid]
        values = metrics[0].compute() | metrics[1].compute()
        expected = {"accuracy": accuracy_score(gold, predicted)}
        for average in ("micro", "macro", "weighted"):
            _, _, f1, _ = precision_recall_fscore_support(gold, predicted, average=average, zero_division=0)
            expected[f"{average}_f1"] = f1
        assert values == pytest.approx(expected, abs=1e-12)
        np.testing.assert_array_equal(
            metrics[2].matrix, confusion_matrix(gold, predicted, labels=list(range(classes)))
        )
        table = precision_recall_fscore_support(gold, predicted, labels=list(range(classes)), zero_division=0)
        for row, *expected_row in zip(metrics[1].table(), *table, strict=True):
            assert [row.precision, row.recall, row.f1, row.support] == pytest.approx(expected_row, abs=1e-12)


def test_by_hand() -> None:
    metric = F1(["a", "b", "never"])
    metric.update(labels=np.array([0, 0, 1, -100]), predictions=np.array([0, 1, 1, 0]))
    assert metric.table() == [
        Score("a", 1.0, 0.5, 2 / 3, 2),
        Score("b", 0.5, 1.0, 2 / 3, 1),
        Score("never", 0.0, 0.0, 0.0, 0),
    ]
    micro, macro, weighted = metric.averages()
    assert micro == Score("micro", 2 / 3, 2 / 3, 2 / 3, 3)
    assert macro == Score("macro", 0.75, 0.75, 2 / 3, 3)
    assert (weighted.precision, weighted.support) == (pytest.approx(5 / 6), 3)


def test_logits_and_sequences() -> None:
    logits = GENERATOR.normal(size=(4, 5, 3))
    labels = GENERATOR.integers(3, size=(4, 5))
    from_logits, from_predictions = Accuracy(3), Accuracy(3)
    from_logits.update(labels=labels, logits=logits)
    from_predictions.update(labels=labels, predictions=logits.argmax(-1))
    np.testing.assert_array_equal(from_logits.matrix, from_predictions.matrix)
    assert from_logits.matrix.sum() == 20


def test_reset_and_empty() -> None:
    metric = F1(3)
    metric.update(labels=np.array([1]), predictions=np.array([1]))
    metric.reset()
    assert metric.compute() == {"micro_f1": 0.0, "macro_f1": 0.0, "weighted_f1": 0.0}
    metric.update(labels=np.array([-100, -100]), predictions=np.array([0, 2]))
    assert metric.matrix.sum() == 0
    assert ConfusionMatrix(2).compute() == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Accuracy(0), "Accuracy: expected at least one class, got none"),
        (
            lambda: Accuracy(3).update(labels=np.array([3]), predictions=np.array([0])),
            "a label from 0 to 2, got 3",
        ),
        (
            lambda: F1(3).update(labels=np.array([0]), predictions=np.array([-1])),
            "prediction from 0 to 2, got -1",
        ),
        (lambda: F1(3).update(labels=np.array([0])), "F1: expected the evaluation outputs 'labels' and"),
        (
            lambda: F1(3).update(labels=np.array([0]), predictions=np.array([0, 1])),
            r"predictions of the labels' shape \[1\], got \[2\]",
        ),
    ],
)
def test_bad_input(call: Callable[[], None], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()
