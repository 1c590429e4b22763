"""Every metric: the same bits for any split over batches and processes, in any order; and scikit-learn's values."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.train import (
    F1,
    R2,
    Accuracy,
    BinaryRanking,
    CollectedMetric,
    ConfusionMatrix,
    EntityF1,
    ExpectedCalibrationError,
    MeanAbsoluteError,
    MeanLoss,
    MeanSquaredError,
    MultilabelF1,
    Perplexity,
    RetrievalMetrics,
    TokenTable,
    TopKAccuracy,
)
from paddle_infra.train.metrics.base import ExactSum

ITEMS, CLASSES = 300, 7
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def classes(rng: np.random.Generator) -> dict[str, Any]:
    labels = rng.integers(CLASSES, size=ITEMS)
    labels[rng.random(ITEMS) < 0.1] = -100
    return {"labels": labels, "logits": rng.normal(size=(ITEMS, CLASSES)).round(1).astype(np.float32)}


def numbers(rng: np.random.Generator) -> dict[str, Any]:
    labels = rng.normal(size=ITEMS) * 10.0 ** rng.integers(-6, 6, ITEMS)
    return {"labels": labels, "predictions": labels + rng.normal(size=ITEMS)}


def binary(rng: np.random.Generator) -> dict[str, Any]:
    labels = (rng.random(ITEMS) < 0.3).astype(np.int64)
    scores = np.clip(rng.normal(0.3 + 0.3 * labels, 0.2), 0, 1).round(2).astype(np.float32)
    return {"labels": labels, "scores": scores}


def several(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "labels": rng.integers(2, size=(ITEMS, CLASSES)),
        "scores": rng.random((ITEMS, CLASSES)).round(1),
    }


def queries(rng: np.random.Generator) -> dict[str, Any]:
    labels = rng.integers(0, 4, size=(ITEMS, 20)) * (rng.random((ITEMS, 20)) < 0.2)
    labels[:, 15:][rng.random(ITEMS) < 0.3] = -100
    return {"labels": labels, "scores": rng.random((ITEMS, 20)).round(2)}


def tags(rng: np.random.Generator) -> dict[str, Any]:
    labels = rng.integers(len(TAGS), size=(ITEMS, 9))
    predictions = np.where(rng.random(labels.shape) < 0.7, labels, rng.integers(len(TAGS), size=labels.shape))
    labels[rng.random(labels.shape) < 0.1] = -100
    return {"labels": labels, "predictions": predictions}


def losses(rng: np.random.Generator) -> dict[str, Any]:
    return {"loss": rng.exponential(size=ITEMS), "items": np.ones(ITEMS, np.int64)}


CASES: dict[str, tuple[Callable[[], Any], Callable[[np.random.Generator], dict[str, Any]]]] = {
    "accuracy": (lambda: Accuracy(CLASSES), classes),
    "f1": (lambda: F1(CLASSES), classes),
    "top-k": (lambda: TopKAccuracy(3), classes),
    "calibration": (ExpectedCalibrationError, classes),
    "mae": (MeanAbsoluteError, numbers),
    "mse": (MeanSquaredError, numbers),
    "r2": (R2, numbers),
    "ranking": (BinaryRanking, binary),
    "multilabel": (lambda: MultilabelF1(CLASSES), several),
    "retrieval": (lambda: RetrievalMetrics(5), queries),
    "entities": (lambda: EntityF1(TAGS), tags),
    "tags": (lambda: TokenTable(TAGS), tags),
    "loss": (MeanLoss, losses),
    "perplexity": (Perplexity, losses),
    "collected": (lambda: CollectedMetric("mae", sk.mean_absolute_error, max_items=ITEMS), numbers),
}


def feed(metric: Any, data: dict[str, Any], parts: list[Any]) -> None:
    for part in parts:
        if isinstance(metric, MeanLoss):  # takes a number per batch: an item is a batch of its own
            for index in part:
                metric.update(loss=data["loss"][index], items=1)
        else:
            metric.update(**{name: value[part] for name, value in data.items()}, unused=None)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_any_split_and_order_gives_the_same_bits(case: str, seed: int) -> None:
    make, draw = CASES[case]
    data, rng = draw(np.random.default_rng(seed)), np.random.default_rng(seed + 100)
    whole = make()
    feed(whole, data, [np.arange(ITEMS)])
    expected = whole.compute()
    assert all(math.isfinite(value) for value in expected.values())
    for _ in range(4):
        order = rng.permutation(ITEMS)
        cuts = np.sort(rng.integers(0, ITEMS + 1, rng.integers(1, 40)))  # some batches are empty
        batches = np.split(order, cuts)
        ranks = rng.integers(1, 5)
        processes = [make() for _ in range(ranks)]
        for rank, process in enumerate(processes):
            feed(process, data, batches[rank::ranks])
        states = [process.state() for process in processes]
        merged = make()
        merged.reset()
        for index in rng.permutation(ranks):
            merged.add_state(states[index])
        assert {k: v.hex() for k, v in merged.compute().items()} == {k: v.hex() for k, v in expected.items()}


@pytest.mark.parametrize("case", [name for name in CASES if name != "collected"])
def test_state_does_not_grow(case: str) -> None:
    """What is kept after 40 times as many items takes as many bytes, but for digits of sums."""
    import pickle

    make, draw = CASES[case]
    metric, sizes = make(), []
    for seed in range(80):
        feed(metric, draw(np.random.default_rng(seed)), [np.arange(ITEMS)])
        sizes.append(len(pickle.dumps(metric.state())))
    assert sizes[-1] <= sizes[1] + 200


@pytest.mark.parametrize("seed", range(3))
def test_exact_sum_of_arrays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=2000) * 2.0 ** rng.integers(-1074, 900, 2000)
    values[:3] = 0.0, 5e-324, -5e-324
    total = ExactSum()
    for part in np.array_split(values, 7):
        total.add_all(part)
    assert total.exact() == sum(map(Fraction, values.tolist()))
    assert total.value() == math.fsum(values)
    total.add_all([1.0, math.inf])
    assert total.value() == math.inf
    total.add_all([-math.inf])
    assert math.isnan(total.value())
    total = ExactSum()
    total.add_all([])
    assert total.value() == 0.0


def test_regression_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = 1e6 + rng.normal(size=1000)
    predictions = labels + 0.1 * rng.normal(size=1000)
    values: dict[str, float] = {}
    for metric in (MeanAbsoluteError(), MeanSquaredError(), R2()):
        metric.update(labels=labels, predictions=predictions)
        values |= metric.compute()
    assert values["mean_absolute_error"] == pytest.approx(
        sk.mean_absolute_error(labels, predictions), rel=1e-13
    )
    assert values["mean_squared_error"] == pytest.approx(
        sk.mean_squared_error(labels, predictions), rel=1e-13
    )
    assert values["root_mean_squared_error"] == math.sqrt(values["mean_squared_error"])
    assert values["r2"] == pytest.approx(sk.r2_score(labels, predictions), rel=1e-13)


def test_r2_of_labels_far_from_zero() -> None:
    """The textbook formula in float64 would have no right digit here: squares of 1e9 have steps of 128."""
    labels = 1e9 + np.arange(8.0) / 8
    metric = R2()
    metric.update(labels=labels, predictions=labels + 0.125)
    assert metric.compute() == {"r2": 1 - 8 * 0.125**2 / float(np.square(np.arange(8) / 8 - 3.5 / 8).sum())}


def test_regression_without_items_or_spread() -> None:
    for metric in (MeanAbsoluteError(), MeanSquaredError(), R2()):
        assert all(map(math.isnan, metric.compute().values()))
    constant = R2()
    constant.update(labels=[2.0, 2.0], predictions=[1.0, 2.0])
    assert math.isnan(constant.compute()["r2"])
    with pytest.raises(
        InvalidInputError, match=r"R2: expected predictions of the labels' shape \[2\], got \[1\]"
    ):
        constant.update(labels=[2.0, 2.0], predictions=[1.0])
    with pytest.raises(
        InvalidInputError, match="R2: expected the evaluation outputs 'labels' and 'predictions'"
    ):
        constant.update(labels=[2.0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bins", [2, 50, 65536])
def test_ranking_equals_scikit_learn_on_binned_scores_and_keeps_its_bounds(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(800) < 0.2).astype(np.int64)
    scores = np.clip(rng.normal(0.3 + 0.2 * labels, 0.2), 0, 1)
    metric = BinaryRanking(bins=bins)
    metric.update(labels=np.append(labels, -100), scores=np.append(scores, math.nan))
    values, bounds = metric.compute(), metric.error_bounds()
    binned = np.minimum(np.floor(scores * bins), bins - 1)
    assert values["roc_auc"] == pytest.approx(sk.roc_auc_score(labels, binned), abs=1e-12)
    assert values["average_precision"] == pytest.approx(sk.average_precision_score(labels, binned), abs=1e-12)
    assert abs(values["roc_auc"] - sk.roc_auc_score(labels, scores)) <= bounds["roc_auc"] + 1e-12
    exact = sk.average_precision_score(labels, scores)
    assert abs(values["average_precision"] - exact) <= bounds["average_precision"] + 1e-12
    if bins == 65536:
        assert bounds["roc_auc"] < 1e-3  # most of it from scores clipped to 0, which are equal anyway
        assert bounds["average_precision"] < 1e-2


def test_bound_of_average_precision_holds_in_the_worst_order() -> None:
    """All items in one bin, the positives last or first within it."""
    labels = np.array([0] * 20 + [1] * 5)
    for scores in (np.linspace(0.01, 0.49, 25), np.linspace(0.49, 0.01, 25)):
        metric = BinaryRanking(bins=2)
        metric.update(labels=labels, scores=scores)
        error = abs(metric.compute()["average_precision"] - sk.average_precision_score(labels, scores))
        assert error <= metric.error_bounds()["average_precision"]
        assert metric.error_bounds()["average_precision"] <= 1


def test_curve_counts() -> None:
    rng = np.random.default_rng(0)
    data = binary(rng)
    metric = BinaryRanking(bins=100)
    metric.update(**data)
    curve = metric.curves(thresholds=11)["precision_recall"]
    labels, bins = data["labels"], np.minimum(np.floor(data["scores"].astype(np.float64) * 100), 99)
    for index, threshold in enumerate(range(0, 101, 10)):
        predicted = bins >= threshold
        assert curve.thresholds[index] == threshold / 100
        assert curve.true_positives[index] == (predicted & (labels == 1)).sum()
        assert curve.false_positives[index] == (predicted & (labels == 0)).sum()
        assert curve.true_negatives[index] == (~predicted & (labels == 0)).sum()
        assert curve.false_negatives[index] == (~predicted & (labels == 1)).sum()
    assert (curve.precision[-1], curve.recall[-1], curve.recall[0]) == (1.0, 0.0, 1.0)


def test_bad_inputs_of_a_ranking() -> None:
    metric = BinaryRanking()
    assert math.isnan(metric.compute()["roc_auc"])
    assert math.isnan(metric.error_bounds()["average_precision"])
    for labels, scores, message in (
        ([2], [0.5], "a label 0 or 1, got 2"),
        ([1], [1.5], "a score from 0 to 1, got 1.5"),
        ([1], [math.nan], "a score from 0 to 1, got nan"),
        ([1, 0], [0.5], r"scores of the labels' shape \[2\], got \[1\]"),
        ([1], None, "the evaluation outputs 'labels' and 'scores'"),
    ):
        with pytest.raises(InvalidInputError, match=f"BinaryRanking: expected {message}"):
            metric.update(labels=labels, scores=scores)
    assert not metric.counts.any()


@pytest.mark.parametrize("k", [1, 3])
def test_top_k(k: int) -> None:
    rng = np.random.default_rng(k)
    labels, logits = rng.integers(CLASSES, size=ITEMS), rng.normal(size=(ITEMS, CLASSES))
    metric = TopKAccuracy(k)
    metric.update(labels=labels, logits=logits)
    assert metric.compute() == {
        f"top_{k}_accuracy": sk.top_k_accuracy_score(labels, logits, k=k, labels=range(CLASSES))
    }


def test_top_1_is_accuracy_also_for_ties() -> None:
    data = classes(np.random.default_rng(3))
    data["logits"] = data["logits"].round()
    top, accuracy = TopKAccuracy(1), Accuracy(CLASSES)
    top.update(**data)
    accuracy.update(**data)
    assert top.compute()["top_1_accuracy"] == accuracy.compute()["accuracy"]
    with pytest.raises(InvalidInputError, match="TopKAccuracy: expected a label from 0 to 6, got 7"):
        top.update(labels=[7], logits=np.zeros((1, 7)))
    with pytest.raises(InvalidInputError, match=r"expected logits of shape \[1, 'classes'\], got \[7\]"):
        top.update(labels=[7], logits=np.zeros(7))


def test_multilabel_equals_scikit_learn() -> None:
    data = several(np.random.default_rng(0))
    data["labels"][:, 2] = 0
    metric = MultilabelF1(CLASSES, threshold=0.7)
    metric.update(**data)
    predicted = data["scores"] >= 0.7
    for average in ("micro", "macro", "weighted"):
        expected = sk.f1_score(data["labels"], predicted, average=average, zero_division=0)
        assert metric.compute()[f"{average}_f1"] == pytest.approx(expected, abs=1e-12)
    assert [row.support for row in metric.table()] == data["labels"].sum(axis=0).tolist()
    with pytest.raises(InvalidInputError, match="expected a prediction 0 or 1, got 2"):
        metric.update(labels=data["labels"], predictions=data["labels"] * 2)
    with pytest.raises(InvalidInputError, match=r"of one shape \[\.\.\., 7\], got \[300, 3\] and \[300, 3\]"):
        metric.update(labels=data["labels"][:, :3], predictions=data["labels"][:, :3])


def test_calibration_by_hand() -> None:
    metric = ExpectedCalibrationError(bins=2)
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.5, 0.5], [0.2, 0.8]])
    metric.update(labels=[0, 1, 0, -100], probabilities=probabilities)
    # (0.5, 1]: confidences 0.9 and 0.7, one right; (0, 0.5]: confidence 0.5, right.
    assert metric.compute()["expected_calibration_error"] == pytest.approx((abs(1 - 1.6) + abs(1 - 0.5)) / 3)
    from_logits = ExpectedCalibrationError(bins=2)
    from_logits.update(labels=[0, 1, 0, -100], logits=np.log(probabilities) + 1000)
    assert from_logits.compute() == pytest.approx(metric.compute())
    with pytest.raises(InvalidInputError, match=r"expected a probability from 0 to 1, got 2\.0"):
        metric.update(labels=[0], probabilities=[[2.0, 0.0]])


def test_retrieval_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 4, (50, 12)), rng.random((50, 12))
    labels[0] = 0  # says nothing
    metric = RetrievalMetrics(4)
    metric.update(labels=labels, scores=scores)
    assert metric.queries == 49
    assert metric.compute()["ndcg_at_4"] == pytest.approx(
        sk.ndcg_score(labels[1:], scores[1:], k=4), abs=1e-12
    )


def test_retrieval_by_hand() -> None:
    metric = RetrievalMetrics(2)
    metric.update(
        labels=[[0, 1, 1, 0], [1, 0, -100, -100], [0, 0, 0, 0]],
        scores=[[0.9, 0.8, 0.1, 0.2], [0.5, 0.5, 9.0, math.nan], [1.0, 2.0, 3.0, 4.0]],
    )
    ideal, discount = 1 + 1 / math.log2(3), 1 / math.log2(3)
    assert metric.compute() == pytest.approx(
        {"mrr": (1 / 2 + 1) / 2, "recall_at_2": (1 / 2 + 1) / 2, "ndcg_at_2": (discount / ideal + 1) / 2}
    )
    with pytest.raises(InvalidInputError, match="got the relevance -1"):
        metric.update(labels=[[-1.0]], scores=[[0.0]])
    with pytest.raises(InvalidInputError, match="got the score nan"):
        metric.update(labels=[[1.0]], scores=[[math.nan]])


def test_perplexity() -> None:
    metric = Perplexity()
    metric.update(loss=math.log(8), items=3)
    metric.update(loss=math.log(2), items=3)
    assert metric.compute() == {"perplexity": pytest.approx(4.0)}
    metric.update(loss=1e6, items=1000)
    assert metric.compute() == {"perplexity": math.inf}


def test_collected_metric_and_its_bound() -> None:
    data = binary(np.random.default_rng(0))
    metric = CollectedMetric("auc", sk.roc_auc_score, ("labels", "scores"), max_items=ITEMS, max_fpr=0.5)
    for part in np.array_split(np.arange(ITEMS), 7):
        metric.update(labels=data["labels"][part], scores=data["scores"][part], logits=None)
    expected = sk.roc_auc_score(data["labels"], data["scores"], max_fpr=0.5)
    assert metric.compute() == {"auc": pytest.approx(expected, abs=1e-12)}
    with pytest.raises(UnsupportedError, match="'auc': expected at most max_items=300 items, got 301"):
        metric.update(labels=[1], scores=[0.5])
    assert metric.items == ITEMS
    with pytest.raises(
        InvalidInputError, match=r"expected the evaluation outputs \['labels', 'scores'\], got"
    ):
        metric.update(labels=[1])
    with pytest.raises(InvalidInputError, match="expected inputs with as many items"):
        metric.update(labels=[1], scores=[0.5, 0.5])
    metric.reset()
    with pytest.raises(InvalidInputError, match="expected at least one item, got none"):
        metric.compute()


def test_confusion_matrix_has_a_state() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add_state(np.array([[1, 2], [3, 4]]))
    matrix.add_state(np.array([[1, 0], [0, 0]]))
    assert matrix.matrix.tolist() == [[2, 2], [3, 4]]
