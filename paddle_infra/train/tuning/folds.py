"""Cross-validation: one run per fold, each in its own folder, finished ones never run again."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddle_infra._core.atomic import atomic_file, sha256_of, write_json
from paddle_infra._core.errors import CheckpointError, InvalidInputError, TrainingError
from paddle_infra._core.extras import require
from paddle_infra.train.checkpoints.checkpoint import checkpoints_in

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer

_RESULT, _PREDICTIONS, _SUMMARY = "result.json", "predictions.npy", "summary.json"


@dataclass(frozen=True)
class Fold:
    """One division of the samples.

    Attributes:
        index: its number, from 0.
        train: indices of the samples to train on, int64.
        valid: indices of the samples to validate on, int64.
        directory: the folder of its run.
    """

    index: int
    train: np.ndarray
    valid: np.ndarray
    directory: Path

    @property
    def checkpoints(self) -> Path:
        """The folder for a :class:`~paddle_infra.train.Checkpoint` callback."""
        return self.directory / "checkpoints"

    @property
    def resume(self) -> str | None:
        """What to give to ``fit(resume=...)``: "latest" if a run of this fold was stopped, else None."""
        return "latest" if checkpoints_in(self.checkpoints) else None


@dataclass(frozen=True)
class CrossValidation:
    """The scores of all folds.

    Attributes:
        scores: metrics of each fold.
        mean: mean of each metric over the folds.
        deviation: standard deviation of each metric over the folds (of a sample: divided by folds - 1).
        predictions: for every sample what the model that was not trained on it predicts; None if nothing predicts.
    """

    scores: list[dict[str, float]]
    mean: dict[str, float]
    deviation: dict[str, float]
    predictions: np.ndarray | None


def split_folds(
    labels: Sequence[Any] | np.ndarray,
    *,
    folds: int = 5,
    stratify: bool = True,
    groups: Sequence[Any] | np.ndarray | None = None,
    seed: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the train and validation indices of each fold; every sample is validated on once.

    Args:
        labels: one per sample; only their number matters without ``stratify``.
        folds: how many.
        stratify: whether every fold should have the labels in the proportions of the whole.
        groups: one per sample (author, patient, document): those of one group stay together. With
            ``stratify`` the proportions are then as near as the groups allow.
        seed: of the shuffle before the division.

    Raises:
        InvalidInputError: fewer than 2 folds; fewer samples, groups or samples of a label than folds; or
            another number of groups than of labels.
        MissingExtraError: scikit-learn is not installed.
    """
    selection = require("sklearn.model_selection", extra="folds", purpose="cross-validation")
    values = np.asarray(labels)
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise InvalidInputError(f"folds: expected an integer of 2 or more, got {folds!r}")
    if values.ndim != 1 or (groups is not None and len(groups) != len(values)):
        sizes = f"labels {values.shape}" + ("" if groups is None else f" and {len(groups)} groups")
        raise InvalidInputError(f"split_folds: expected one label (and group) per sample, got {sizes}")
    _check_enough(len(values), folds, "samples")
    if groups is not None:
        _check_enough(len(np.unique(np.asarray(groups))), folds, "groups")
    if stratify:
        for label, count in zip(*np.unique(values, return_counts=True), strict=True):
            _check_enough(int(count), folds, f"samples of the label {label.item()!r}")
    name = ("Stratified" if stratify else "") + ("Group" if groups is not None else "") + "KFold"
    splitter = getattr(selection, name)(n_splits=folds, shuffle=True, random_state=seed)
    return [
        (np.asarray(train, np.int64), np.asarray(valid, np.int64))
        for train, valid in splitter.split(np.zeros(len(values)), values, groups)
    ]


def cross_validate(
    make: Callable[[Fold], tuple[Trainer, dict[str, Any]]],
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    directory: str | os.PathLike[str],
    *,
    score: Callable[[Trainer, Fold], dict[str, float]] | None = None,
    predict: Callable[[Trainer, Fold], np.ndarray] | None = None,
) -> CrossValidation:
    """Train and score once per fold.

    A fold's result is written in one piece when it is complete (``fold-0/result.json``); a second call with the
    same splits trains only the folds that have none.

    Args:
        make: ``make(fold)`` returns a trainer and the keyword arguments of its ``fit``. Seed the generators in
            it, so that a fold does not depend on those before it; with a ``Checkpoint(fold.checkpoints)`` and
            ``resume=fold.resume`` a fold that was stopped goes on where it was.
        splits: train and validation indices, see :func:`split_folds`.
        directory: folder of the whole.
        score: ``score(trainer, fold)`` after the run; None evaluates on its ``eval_loader``.
        predict: ``predict(trainer, fold)`` returns one row per index in ``fold.valid``, in their order.

    Raises:
        InvalidInputError: fewer than two folds; training and validation share a sample; ``predict`` is given
            but the validation parts are no partition; or there is no loader to score on.
        CheckpointError: the folder holds the result of another split, or a damaged one.
        TrainingError: ``predict`` returned another number of rows, or folds have different metrics.
    """
    folds = [
        Fold(
            index, np.asarray(train, np.int64), np.asarray(valid, np.int64), Path(directory) / f"fold-{index}"
        )
        for index, (train, valid) in enumerate(splits)
    ]
    _check_splits(folds, needs_partition=predict is not None)
    finished = [_read_result(fold, predict is not None) for fold in folds]  # refuses before anything runs
    results = [
        _run(fold, make, score, predict) if result is None else result
        for fold, result in zip(folds, finished, strict=True)
    ]
    scores = [scores for scores, _ in results]
    if any(each.keys() != scores[0].keys() for each in scores):
        raise TrainingError(
            f"folds: expected the same metrics from each, got {[sorted(each) for each in scores]}"
        )
    columns = {name: [each[name] for each in scores] for name in scores[0]}
    mean = {name: math.fsum(values) / len(values) for name, values in columns.items()}
    deviation = {
        name: statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
        for name, values in columns.items()
    }
    write_json(
        Path(directory) / _SUMMARY,
        {"scores": [_plain(each) for each in scores], "mean": _plain(mean), "deviation": _plain(deviation)},
    )
    return CrossValidation(scores, mean, deviation, _in_order(folds, [rows for _, rows in results]))


def _run(
    fold: Fold,
    make: Callable[[Fold], tuple[Trainer, dict[str, Any]]],
    score: Callable[[Trainer, Fold], dict[str, float]] | None,
    predict: Callable[[Trainer, Fold], np.ndarray] | None,
) -> tuple[dict[str, float], np.ndarray | None]:
    trainer, fit_arguments = make(fold)
    if score is None and fit_arguments.get("eval_loader") is None:
        raise InvalidInputError(f"fold {fold.index}: expected score=... or an eval_loader in fit's arguments")
    trainer.fit(**fit_arguments)
    scores = score(trainer, fold) if score is not None else trainer.evaluate(fit_arguments["eval_loader"])
    scores = {name: float(value) for name, value in scores.items()}
    result: dict[str, Any] = {"split": _fingerprint(fold), "scores": _plain(scores)}
    rows = None
    if predict is not None:
        rows = np.asarray(predict(trainer, fold))
        if rows.ndim == 0 or len(rows) != len(fold.valid):
            raise TrainingError(
                f"fold {fold.index}: expected predictions for {len(fold.valid)} samples, got the shape {rows.shape}"
            )
        with atomic_file(fold.directory / _PREDICTIONS) as temporary, open(temporary, "wb") as file:
            np.save(file, rows, allow_pickle=False)
        result["predictions_sha256"] = sha256_of(fold.directory / _PREDICTIONS)
    write_json(fold.directory / _RESULT, result)
    return scores, rows


def _read_result(fold: Fold, with_predictions: bool) -> tuple[dict[str, float], np.ndarray | None] | None:
    """Return what a finished fold left; None if it is to be run."""
    file, rows_file = fold.directory / _RESULT, fold.directory / _PREDICTIONS
    if not file.is_file():
        return None
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        split = result["split"]
        scores = {
            name: math.nan if value is None else float(value) for name, value in result["scores"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: expected the result of a fold, got {error!r}") from error
    if split != _fingerprint(fold):
        raise CheckpointError(
            f"{file}: expected the split {_fingerprint(fold)}, got {split}: it is of other folds or data; "
            "choose another folder"
        )
    if not with_predictions:
        return scores, None
    if "predictions_sha256" not in result:
        raise CheckpointError(f"{file}: expected predictions, but this fold was finished without; remove it")
    if not rows_file.is_file() or sha256_of(rows_file) != result["predictions_sha256"]:
        raise CheckpointError(f"{rows_file}: expected SHA-256 {result['predictions_sha256']}, it is damaged")
    return scores, np.load(rows_file, allow_pickle=False)


def _in_order(folds: list[Fold], rows: list[np.ndarray | None]) -> np.ndarray | None:
    """Put the predictions of all folds in the order of the samples."""
    present = [part for part in rows if part is not None]
    if not present:
        return None
    if any(part.shape[1:] != present[0].shape[1:] for part in present):
        raise TrainingError(
            f"folds: expected predictions of one shape, got {[part.shape[1:] for part in present]}"
        )
    order = np.argsort(np.concatenate([fold.valid for fold in folds]))
    return np.concatenate(present)[order]


def _check_enough(count: int, folds: int, what: str) -> None:
    if count < folds:
        raise InvalidInputError(
            f"split_folds: expected at least {folds} {what} for {folds} folds, got {count}"
        )


def _check_splits(folds: list[Fold], *, needs_partition: bool) -> None:
    if len(folds) < 2:
        raise InvalidInputError(f"cross_validate: expected at least two folds, got {len(folds)}")
    for fold in folds:
        shared = np.intersect1d(fold.train, fold.valid)
        if len(shared) or not len(fold.train) or not len(fold.valid):
            raise InvalidInputError(
                f"fold {fold.index}: expected two non-empty parts without a common sample, got {len(fold.train)} and "
                f"{len(fold.valid)} samples, {len(shared)} in both"
            )
    everything = np.sort(np.concatenate([fold.valid for fold in folds]))
    if needs_partition and not np.array_equal(everything, np.arange(len(everything))):
        raise InvalidInputError(
            "cross_validate: predict: expected every sample in exactly one validation part, got "
            f"{len(everything)} indices, {len(np.unique(everything))} different, up to {everything[-1]}"
        )


def _fingerprint(fold: Fold) -> str:
    digest = hashlib.sha256(f"{len(fold.train)} {len(fold.valid)} ".encode())
    digest.update(fold.train.astype("<i8").tobytes() + fold.valid.astype("<i8").tobytes())
    return digest.hexdigest()


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    """Return the values as JSON has them: null for what is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
