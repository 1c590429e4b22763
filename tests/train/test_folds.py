from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import CheckpointError, InvalidInputError, TrainingError
from paddle_infra.train import Callback, Checkpoint, Fold, Trainer, cross_validate, split_folds
from tests.train.problem import CLASSES, clouds, make_trainer

pytest.importorskip("sklearn")
POINTS, LABELS = clouds()
LABELS = np.where(LABELS < 0, 0, LABELS)


def loader(indices: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [
        {"points": POINTS[part], "labels": LABELS[part]}
        for part in np.array_split(indices, -(-len(indices) // 32))
    ]


def make(fold: Fold) -> tuple[Trainer, dict[str, Any]]:
    trainer = make_trainer([Checkpoint(fold.checkpoints)])
    loaders = {"train_loader": loader(fold.train), "eval_loader": loader(fold.valid)}
    return trainer, {**loaders, "max_epochs": 2, "resume": fold.resume}


def predict(trainer: Trainer, fold: Fold) -> np.ndarray:
    trainer.model.eval()
    with paddle.no_grad():
        return trainer.model(paddle.to_tensor(POINTS[fold.valid])).numpy()


def assert_partition(splits: list[tuple[np.ndarray, np.ndarray]], samples: int) -> None:
    assert sorted(np.concatenate([valid for _, valid in splits])) == list(range(samples))
    for train, valid in splits:
        assert sorted([*train, *valid]) == list(range(samples))


def test_folds_have_the_labels_in_proportion() -> None:
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    splits = split_folds(labels, folds=5, seed=1)
    assert_partition(splits, 100)
    for _, valid in splits:
        assert [sum(labels[i] == name for i in valid) for name in "abc"] == [12, 6, 2]
    again = split_folds(labels, folds=5, seed=1)
    assert all((a[1] == b[1]).all() for a, b in zip(splits, again, strict=True))
    assert any(
        set(a[1]) != set(b[1]) for a, b in zip(splits, split_folds(labels, folds=5, seed=2), strict=True)
    )


@pytest.mark.parametrize("stratify", [True, False])
def test_groups_stay_together(stratify: bool) -> None:
    generator = np.random.default_rng(0)
    groups, labels = generator.integers(20, size=200), generator.integers(3, size=200)
    splits = split_folds(labels, folds=4, groups=groups, stratify=stratify)
    assert_partition(splits, 200)
    for train, valid in splits:
        assert not set(groups[train]) & set(groups[valid])


def test_every_fold_is_trained_and_scored_by_itself(tmp_path: Path) -> None:
    splits = split_folds(LABELS, folds=3)
    result = cross_validate(make, splits, tmp_path, predict=predict)
    assert len(result.scores) == 3
    for name in ("accuracy", "loss"):
        values = [scores[name] for scores in result.scores]
        assert result.mean[name] == pytest.approx(sum(values) / 3, rel=1e-12)
        assert result.deviation[name] == statistics.stdev(values)
    assert result.predictions is not None
    assert result.predictions.shape == (200, CLASSES)
    # The predictions out of fold are those that were scored, in the order of the samples.
    right = result.predictions.argmax(-1) == LABELS
    for scores, (_, valid) in zip(result.scores, splits, strict=True):
        assert scores["accuracy"] == pytest.approx(right[valid].mean(), abs=1e-12)
    alone, arguments = make(Fold(1, *splits[1], tmp_path / "alone"))  # independent of the folds before it
    alone.fit(**arguments)
    assert alone.evaluate(arguments["eval_loader"]) == result.scores[1]
    assert json.loads((tmp_path / "summary.json").read_text())["mean"] == result.mean


class Stop(Callback):
    def on_epoch_end(self, trainer: Trainer) -> None:
        if trainer.state.epoch == 1:
            raise ZeroDivisionError


def test_finished_folds_are_not_run_again(tmp_path: Path) -> None:
    splits = split_folds(LABELS, folds=3)
    whole = cross_validate(make, splits, tmp_path / "whole", predict=predict)
    made: list[int] = []
    resumed: list[str | None] = []

    def stops_in_fold_1(fold: Fold) -> Any:
        trainer, arguments = make(fold)
        if fold.index == 1 and not made.count(1):
            trainer.callbacks.append(Stop())  # after the checkpoint of the first epoch
        made.append(fold.index)
        resumed.append(fold.resume)
        return trainer, arguments

    with pytest.raises(ZeroDivisionError):
        cross_validate(stops_in_fold_1, splits, tmp_path / "parts", predict=predict)
    assert not (tmp_path / "parts/fold-1/result.json").exists()
    result = cross_validate(stops_in_fold_1, splits, tmp_path / "parts", predict=predict)
    assert made == [0, 1, 1, 2]
    assert resumed == [None, None, "latest", None]
    assert result.scores == whole.scores
    assert np.array_equal(result.predictions, whole.predictions)  # type: ignore[arg-type]
    again = cross_validate(stops_in_fold_1, splits, tmp_path / "parts", predict=predict)
    assert (made, again.scores) == ([0, 1, 1, 2], whole.scores)
    assert np.array_equal(again.predictions, whole.predictions)  # type: ignore[arg-type]


def test_results_of_other_splits_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    splits = split_folds(LABELS, folds=2)
    cross_validate(make, splits, tmp_path, predict=predict, score=lambda trainer, fold: {"x": float("nan")})
    with pytest.raises(CheckpointError, match="it is of other folds or data"):
        cross_validate(make, split_folds(LABELS, folds=2, seed=5), tmp_path)
    result = cross_validate(make, splits, tmp_path)
    assert np.isnan([result.mean["x"], result.deviation["x"]]).all()
    assert result.predictions is None
    with open(tmp_path / "fold-1/predictions.npy", "ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match=r"fold-1/predictions.npy: expected SHA-256 .* it is damaged"):
        cross_validate(make, splits, tmp_path, predict=predict)
    (tmp_path / "fold-0/result.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"fold-0/result.json: expected the result of a fold, got KeyError"
    ):
        cross_validate(make, splits, tmp_path)


def test_bad_arguments(tmp_path: Path) -> None:
    for labels, options, message in [
        ([0, 1] * 4, {"folds": 1}, "folds: expected an integer of 2 or more, got 1"),
        ([0, 0, 0, 1], {"folds": 2}, "at least 2 samples of the label 1 for 2 folds, got 1"),
        ([0], {"folds": 2, "stratify": False}, "at least 2 samples for 2 folds, got 1"),
        ([0, 1] * 4, {"folds": 2, "groups": [1] * 8}, "at least 2 groups for 2 folds, got 1"),
        (
            [0, 1] * 4,
            {"folds": 2, "groups": [1]},
            r"one label .and group. per sample, got labels \(8,\) and 1 groups",
        ),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            split_folds(labels, **options)
    one, two = np.arange(4), np.arange(4, 8)
    for splits, message in [
        ([(one, two)], "expected at least two folds, got 1"),
        (
            [(one, two), (one, one)],
            "fold 1: expected two non-empty parts without a common sample, got 4 and 4",
        ),
        (
            [(one, two), (one, two)],
            "expected every sample in exactly one validation part, got 8 indices, 4 different",
        ),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            cross_validate(make, splits, tmp_path, predict=predict)
    splits = split_folds(LABELS, folds=2)
    with pytest.raises(
        TrainingError, match=r"fold 0: expected predictions for 100 samples, got the shape \(3,\)"
    ):
        cross_validate(make, splits, tmp_path, predict=lambda trainer, fold: np.zeros(3))
    with pytest.raises(InvalidInputError, match=r"fold 0: expected score=... or an eval_loader"):
        cross_validate(lambda fold: (make_trainer(), {"train_loader": loader(fold.train)}), splits, tmp_path)
