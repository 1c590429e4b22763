from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import InvalidInputError, TrainingError
from paddle_infra.train import Checkpoint, FloatRange, PruneTrial, Report, search, trainer_objective
from tests.train.problem import SeekableLoader, make_trainer
from tests.train.test_checkpointing import FakeScores


class Recorder(Report):
    """Prunes at a step; None never does."""

    def __init__(self, prune_at: int | None = None, mode: Any = "max") -> None:
        super().__init__(7, 7, mode)
        self.sent: list[tuple[int, float]] = []
        self._prune_at = prune_at

    def _send(self, value: float, step: int) -> bool:
        self.sent.append((step, value))
        return step == self._prune_at


def short_loader() -> list[Any]:
    return list(SeekableLoader())[:1]


def test_run_ends_cleanly_when_it_is_pruned(tmp_path: Path) -> None:
    report = Recorder(prune_at=2)
    watch = PruneTrial("score", report)
    trainer = make_trainer([FakeScores(0.5, 0.75, 0.9, 1.0), watch, Checkpoint(tmp_path)])
    state = trainer.fit(short_loader(), SeekableLoader(), max_epochs=4)
    assert (state.epoch, state.stop_reason) == (2, "pruned: trial 7 with score 0.75")
    assert report.sent == [(1, 0.5), (2, 0.75)]
    assert (report.is_pruned, watch.best) == (True, 0.75)
    assert (tmp_path / "step-00000002").is_dir()


def test_resumed_run_reports_again_what_it_had(tmp_path: Path) -> None:
    def trainer(report: Report) -> Any:
        watch = PruneTrial("score", report)
        return make_trainer([FakeScores(0.9, 0.2, 0.3, 0.4), watch, Checkpoint(tmp_path)]), watch

    first, _ = trainer(Recorder())
    first.fit(short_loader(), SeekableLoader(), max_epochs=2)
    report = Recorder()
    second, watch = trainer(report)
    second.fit(short_loader(), SeekableLoader(), max_epochs=3, resume="latest")
    assert report.sent[:2] == [(1, 0.9), (2, 0.2)]
    assert len(report.sent) == 3
    assert watch.best == 0.9


def test_smaller_is_better_with_mode_min_and_nan_is_never_best() -> None:
    watch = PruneTrial("score", Recorder(mode="min"))
    make_trainer([FakeScores(0.5, float("nan"), 0.25, 0.75), watch]).fit(
        short_loader(), SeekableLoader(), max_epochs=4
    )
    assert watch.best == 0.25


def test_steps_must_grow() -> None:
    report = Recorder()
    report(0.5)
    report(0.5, 5)
    assert [step for step, _ in report.sent] == [1, 5]
    with pytest.raises(InvalidInputError, match="report: expected a step after 5, got 5"):
        report(0.5, 5)


def test_unknown_metric_and_no_validation() -> None:
    trainer = make_trainer([PruneTrial("f1", Recorder())])
    with pytest.raises(InvalidInputError, match="PruneTrial: expected the validation metric 'f1'"):
        trainer.fit(short_loader(), SeekableLoader(), max_epochs=1)
    objective = trainer_objective(
        lambda parameters, report: (make_trainer(), {"train_loader": short_loader(), "max_epochs": 1}), "loss"
    )
    with pytest.raises(TrainingError, match="trial 7: expected a validation with a value of 'loss'"):
        objective({}, Recorder())


def test_search_over_a_trainer() -> None:
    pytest.importorskip("optuna")
    best: dict[int, float] = {}

    def make(parameters: dict[str, Any], report: Report) -> Any:
        scores = [parameters["quality"] * factor for factor in (1.0, 3.0, 2.0)]
        best[report.number] = max(scores)
        loaders = {"train_loader": short_loader(), "eval_loader": SeekableLoader()}
        return make_trainer([FakeScores(*scores)]), {**loaders, "max_epochs": 3}

    result = search(
        trainer_objective(make, "score"),
        {"quality": FloatRange(0.1, 1.0)},
        trials=9,
        pruner="median",
        sampler="random",
        seed=0,
    )
    states = {row.number: row.state for row in result.trials}
    assert sorted(set(states.values())) == ["complete", "pruned"]
    for row in result.trials:
        if row.state == "complete":
            assert row.value == best[row.number]
            assert len(row.reports) == 3
        else:
            assert len(row.reports) < 3
    assert result.best_value == max(best.values())
