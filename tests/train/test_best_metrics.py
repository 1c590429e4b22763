from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from paddle_infra.train import BestMetrics, Checkpoint, EarlyStopping, SingleDevice
from tests.train.problem import SeekableLoader, make_trainer
from tests.train.test_checkpointing import FakeScores


def test_best_value_and_step(capsys: pytest.CaptureFixture[str]) -> None:
    best = BestMetrics()
    trainer = make_trainer([FakeScores(0.5, math.nan, 0.7, 0.7, 0.6), best])
    trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=5)
    assert best.best["score"] == (0.7, 39)
    assert "best score" in best.table()
    assert re.search(r"^best score +0\.7000  step 39$", capsys.readouterr().err, re.MULTILINE)


def test_smaller_is_better_also_of_named_sets(tmp_path: Path) -> None:
    best = BestMetrics(is_shown=False)
    assert [best.mode(n) for n in ("loss", "a/loss", "accuracy", "loss/accuracy")] == [
        "min",
        "min",
        "max",
        "max",
    ]
    assert BestMetrics(lower_is_better=["accuracy"]).mode("accuracy") == "min"
    seen: list[dict[str, float]] = []

    class Watch(FakeScores):
        def on_validation_end(self, trainer: object, metrics: dict[str, float]) -> None:
            seen.append(dict(metrics))

    trainer = make_trainer([best, Watch()])
    trainer.fit(SeekableLoader(), {"a": SeekableLoader(), "b": list(SeekableLoader())[:2]}, max_epochs=3)
    assert set(best.best) == {f"{s}/{m}" for s in "ab" for m in trainer.evaluate(SeekableLoader())}
    for name, (value, step) in best.best.items():
        values = [metrics[name] for metrics in seen]
        assert value == (min if name.endswith("loss") else max)(values)
        assert step == 13 * (values.index(value) + 1)


def test_resumed_run_remembers(tmp_path: Path) -> None:
    def fit(scores: list[float], epochs: int, resume: str | None = None) -> BestMetrics:
        best = BestMetrics(is_shown=False)
        trainer = make_trainer([FakeScores(*scores), best, Checkpoint(tmp_path)])
        trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=epochs, resume=resume)
        return best

    fit([0.9], 1)
    best = fit([0.9, 0.5], 2, "latest")
    assert best.best["score"] == (0.9, 13)


def test_other_processes_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class SecondOfTwo(SingleDevice):
        rank = 1

    make_trainer([BestMetrics()], strategy=SecondOfTwo()).fit(SeekableLoader(), SeekableLoader(), max_steps=2)
    assert "best" not in capsys.readouterr().err


def test_metrics_of_named_sets_stop_the_run_and_choose_the_checkpoint(tmp_path: Path) -> None:
    callbacks = [
        EarlyStopping("hard/loss", mode="min", patience=1, min_delta=1e9),
        Checkpoint(tmp_path, best_metric="easy/accuracy"),
    ]
    trainer = make_trainer(callbacks)
    sets = {"easy": SeekableLoader(), "hard": list(SeekableLoader())[:3]}
    state = trainer.fit(SeekableLoader(), sets, max_epochs=9)
    assert state.stop_reason is not None
    assert state.stop_reason.startswith("hard/loss has not improved")
    assert state.step == 26
    assert state.best_value is not None
    assert state.best_value >= state.metrics["easy/accuracy"]
    assert callbacks[1].best_path == tmp_path / f"step-{state.best_step:08d}"  # type: ignore[attr-defined]
    with pytest.raises(
        ValueError, match=r"EarlyStopping: expected the validation metric 'loss', got \['easy/"
    ):
        make_trainer([EarlyStopping("loss")]).fit(SeekableLoader(), sets, max_epochs=1)
