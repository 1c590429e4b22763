from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import CheckpointError, InvalidInputError
from paddle_infra.train import Callback, Checkpoint, checkpoints_in
from tests.train.problem import SeekableLoader, make_trainer


def names(directory: Path) -> list[str]:
    return [path.name for path in checkpoints_in(directory)]


class FakeScores(Callback):
    """Replaces the validation metrics by a given series."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def on_validation_end(self, trainer: Any, metrics: dict[str, float]) -> None:
        metrics["score"] = self.values[trainer.state.epoch]


def test_every_steps_every_epoch_and_the_end(tmp_path: Path) -> None:
    saved: list[str] = []

    class Saved(Callback):
        def on_checkpoint(self, trainer: Any, path: Path) -> None:
            saved.append(path.name)

    trainer = make_trainer([Saved(), Checkpoint(tmp_path, every_steps=5, keep_last=None)])
    trainer.fit(SeekableLoader(), max_steps=17)
    assert saved == [f"step-{step:08d}" for step in (5, 10, 13, 15, 17)]
    assert names(tmp_path) == saved


def test_keep_last_and_best(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, keep_last=2, best_metric="score")
    trainer = make_trainer([checkpoint, FakeScores(0.1, 0.8, 0.3, 0.8, 0.2)])
    trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=5)
    assert names(tmp_path) == ["step-00000026", "step-00000052", "step-00000065"]
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "checkpoint": "step-00000026",
        "step": 26,
        "metric": "score",
        "value": 0.8,
        "ranking": [{"checkpoint": "step-00000026", "step": 26, "value": 0.8}],
    }
    assert checkpoint.best_path == tmp_path / "step-00000026"
    assert checkpoint.last_path == tmp_path / "step-00000065"
    assert (trainer.state.best_value, trainer.state.best_step) == (0.8, 26)


def test_best_survives_a_restart_and_min_mode(tmp_path: Path) -> None:
    def callbacks() -> list[Callback]:
        return [
            Checkpoint(tmp_path, keep_last=1, best_metric="score", mode="min"),
            FakeScores(0.5, 0.1, 0.2, 0.3),
        ]

    make_trainer(callbacks()).fit(SeekableLoader(), SeekableLoader(), max_epochs=3)
    resumed = make_trainer(callbacks())
    resumed.fit(SeekableLoader(), SeekableLoader(), max_epochs=4, resume="latest")
    assert names(tmp_path) == ["step-00000026", "step-00000052"]
    assert resumed.state.best_step == 26


def test_best_is_saved_even_if_epochs_are_not(tmp_path: Path) -> None:
    trainer = make_trainer(
        [Checkpoint(tmp_path, every_epoch=False, best_metric="score"), FakeScores(0.1, 0.8, 0.3, 0.2)]
    )
    trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=4)
    assert names(tmp_path) == ["step-00000026", "step-00000052"]


def test_unknown_metric(tmp_path: Path) -> None:
    trainer = make_trainer([Checkpoint(tmp_path, best_metric="f1")])
    with pytest.raises(
        InvalidInputError, match=r"Checkpoint: expected the validation metric 'f1', got \['accuracy"
    ):
        trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=1)


def test_two_runs_are_not_mixed_in_one_folder(tmp_path: Path) -> None:
    make_trainer([Checkpoint(tmp_path, every_steps=2, keep_last=None)]).fit(SeekableLoader(), max_steps=6)
    trainer = make_trainer([Checkpoint(tmp_path)])
    with pytest.raises(
        CheckpointError, match=r"which starts anew, found step-00000002\. Continue .*resume='latest'"
    ):
        trainer.fit(SeekableLoader(), max_steps=6)
    with pytest.raises(
        CheckpointError, match=r"ahead of this run, which resumes after step 2 .*found step-00000004"
    ):
        trainer.fit(SeekableLoader(), max_steps=6, resume=tmp_path / "step-00000002")
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000006"]
    again = make_trainer([Checkpoint(tmp_path, overwrite=True)])
    again.fit(SeekableLoader(), max_steps=3, resume=tmp_path / "step-00000002")
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def test_overwriting_forgets_the_best_of_the_earlier_run(tmp_path: Path) -> None:
    callbacks = [Checkpoint(tmp_path, best_metric="score"), FakeScores(0.5)]
    make_trainer(callbacks).fit(SeekableLoader(), SeekableLoader(), max_epochs=1)
    assert (tmp_path / "best.json").exists()
    make_trainer([Checkpoint(tmp_path, overwrite=True)]).fit(SeekableLoader(), max_steps=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001"]


def test_debris_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    # No process has this number: it is above the largest that Linux gives.
    debris = tmp_path / f".incomplete-step-00000009-{2**22 + 1}-abcdef12"
    debris.mkdir()
    alive = tmp_path / f".incomplete-step-00000009-{os.getpid()}-abcdef12"
    alive.mkdir()
    make_trainer([Checkpoint(tmp_path)]).fit(SeekableLoader(), max_steps=1)
    assert not debris.exists()
    assert alive.exists()


@pytest.mark.parametrize("argument", ["every_steps", "keep_last"])
def test_bad_arguments(tmp_path: Path, argument: str) -> None:
    with pytest.raises(
        InvalidInputError, match=f"Checkpoint: {argument}: expected a positive integer or None, got 0"
    ):
        Checkpoint(tmp_path, **{argument: 0})


def test_error_in_training_saves_nothing(tmp_path: Path) -> None:
    def step(model: Any, batch: Any) -> Any:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        make_trainer([Checkpoint(tmp_path)], training_step=step).fit(SeekableLoader(), max_steps=1)
    assert not names(tmp_path)


def ranked(directory: Path) -> list[tuple[int, float]]:
    best = json.loads((directory / "best.json").read_text())
    assert (best["step"], best["value"]) == (best["ranking"][0]["step"], best["ranking"][0]["value"])
    return [(row["step"] // 13, row["value"]) for row in best["ranking"]]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_best_few_are_kept_also_over_a_restart(tmp_path: Path, asynchronous: bool) -> None:
    scores = (0.1, 0.8, 0.3, 0.8, float("nan"), 0.9, 0.2)

    def fit(epochs: int, resume: str | None) -> None:
        checkpoint = Checkpoint(
            tmp_path, keep_last=1, best_metric="score", keep_best=3, asynchronous=asynchronous
        )
        trainer = make_trainer([FakeScores(*scores), checkpoint])
        trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=epochs, resume=resume)

    fit(4, None)
    assert ranked(tmp_path) == [(2, 0.8), (4, 0.8), (3, 0.3)]
    assert names(tmp_path) == [f"step-{13 * epoch:08d}" for epoch in (2, 3, 4)]
    fit(7, "latest")
    assert ranked(tmp_path) == [(6, 0.9), (2, 0.8), (4, 0.8)]
    assert names(tmp_path) == [f"step-{13 * epoch:08d}" for epoch in (2, 4, 6, 7)]


def test_a_best_checkpoint_that_is_damaged_is_said_and_leaves_its_place(tmp_path: Path) -> None:
    def trainer() -> Any:
        return make_trainer(
            [
                FakeScores(0.1, 0.8, 0.3, 0.5),
                Checkpoint(tmp_path, keep_last=1, best_metric="score", keep_best=2),
            ]
        )

    trainer().fit(SeekableLoader(), SeekableLoader(), max_epochs=3)
    assert ranked(tmp_path) == [(2, 0.8), (3, 0.3)]
    weights = tmp_path / "step-00000026/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    second = trainer()
    with pytest.warns(
        UserWarning, match=r"one of the best checkpoints is lost: .*step-00000026.* is damaged"
    ):
        second.fit(SeekableLoader(), SeekableLoader(), max_epochs=4, resume="latest")
    assert ranked(tmp_path) == [(4, 0.5), (3, 0.3)]
    assert (second.state.best_value, second.state.best_step) == (0.5, 52)
