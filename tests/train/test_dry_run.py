"""Short runs before the long one: everything is called, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import (
    Callback,
    Checkpoint,
    History,
    Trainer,
    VisualDLLogger,
    adamw,
    fast_dev_run,
    get_rng_state,
    overfit_batches,
)
from paddle_infra.train.tuning.dry_run import FirstBatches
from tests.train.problem import PlainLoader, SeekableLoader, assert_same_bits, make_trainer, mlp, tensors


class Counter(Callback):
    def __init__(self) -> None:
        self.steps = self.batches = self.validations = 0

    def on_step_end(self, trainer: Trainer) -> None:
        self.steps += 1

    def on_evaluate_batch(self, trainer: Trainer) -> None:
        self.batches += 1

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        self.validations += 1


@pytest.mark.parametrize("loader", [SeekableLoader, PlainLoader])
def test_a_short_run_calls_everything_and_leaves_no_trace(tmp_path: Path, loader: Any) -> None:
    counter = Counter()
    callbacks = [
        counter,
        History(tmp_path / "history.jsonl"),
        VisualDLLogger(tmp_path / "visualdl"),
        Checkpoint(tmp_path / "checkpoints", every_steps=1),
    ]
    trainer = make_trainer(callbacks, accumulate=2)
    trainer.fit(SeekableLoader(), max_steps=2)
    state, before, rng, order = trainer.state, tensors(trainer), get_rng_state(), list(trainer.callbacks)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    contents = [path.read_bytes() for path in files]
    counter.steps = 0
    result = fast_dev_run(trainer, loader(), {"one": loader(), "two": SeekableLoader()}, windows=3)
    assert (result.step, counter.steps, counter.batches, counter.validations) == (3, 3, 6, 1)
    assert {"one/accuracy", "two/accuracy"} <= result.metrics.keys()
    assert trainer.state is state
    assert trainer.callbacks == order
    assert_same_bits(before, tensors(trainer))
    assert get_rng_state() == rng
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == files
    assert [path.read_bytes() for path in files] == contents


def test_what_is_wrong_shows_at_once() -> None:
    def fails(model: Any, batch: Any) -> Any:
        raise KeyError("no such output")

    trainer = make_trainer()
    trainer.evaluator.step = fails
    before = tensors(trainer)
    with pytest.raises(KeyError, match="no such output"):
        fast_dev_run(trainer, SeekableLoader(), SeekableLoader())
    assert_same_bits(before, tensors(trainer))
    with pytest.raises(InvalidInputError, match="windows: expected a positive integer, got 0"):
        fast_dev_run(trainer, SeekableLoader(), windows=0)
    with pytest.raises(InvalidInputError, match="expected at least one batch, got none"):
        fast_dev_run(trainer, [])


def test_a_model_that_can_learn_learns_a_few_batches_by_heart() -> None:
    model = mlp()
    trainer = make_trainer(model=model, optimizer=adamw(model, 1e-2, schedule="constant"))
    state = overfit_batches(trainer, PlainLoader(), batches=2, max_epochs=60)
    assert state.step == 120
    assert state.samples == 120 * 16
    assert state.metrics["accuracy"] == 1.0
    assert state.metrics["loss"] < 0.05


def test_first_batches_can_be_dealt_and_entered_anywhere() -> None:
    few = FirstBatches(SeekableLoader(), 5)
    whole = list(SeekableLoader())[:5]
    assert len(few) == 5
    for epoch in (0, 3):
        got = list(few.iterate(epoch, 1, 2))
        assert [batch["labels"].tolist() for batch in got] == [whole[i]["labels"].tolist() for i in (1, 3)]
    assert len(FirstBatches(SeekableLoader(), 99)) == 13
