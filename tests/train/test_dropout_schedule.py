"""Dropout that follows the step."""

from __future__ import annotations

from typing import Any

import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn import TransformerEncoderLayer
from paddle_infra.train import Callback, Checkpoint, DropoutSchedule, Trainer, ramp
from tests.train.problem import SeekableLoader, assert_same_bits, make_trainer, mlp, tensors


class Seen(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step_end(self, trainer: Trainer) -> None:
        self.values.append(trainer.model[3].p)


def test_ramp() -> None:
    assert [ramp(0.1, 0.5, 4)(step) for step in (0, 1, 4, 9)] == pytest.approx([0.1, 0.2, 0.5, 0.5])
    with pytest.raises(InvalidInputError, match="steps: expected 1 or more, got 0"):
        ramp(0.1, 0.2, 0)


def test_layers_follow_the_steps_and_get_their_own_back() -> None:
    seen = Seen()
    trainer = make_trainer([DropoutSchedule(ramp(0.4, 0.0, 4)), seen])
    trainer.fit(SeekableLoader(), max_steps=6)
    assert seen.values == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])
    assert trainer.model[3].p == 0.2


def test_it_really_changes_the_dropout() -> None:
    without = make_trainer([DropoutSchedule(lambda step: 0.0)])
    plain = make_trainer(model=mlp(dropout=0.0))
    plain.model.set_state_dict(without.model.state_dict())
    for trainer in (without, plain):
        trainer.fit(SeekableLoader(), max_steps=3)
    assert_same_bits(tensors(without), tensors(plain))


def test_layers_of_this_package_and_patterns() -> None:
    layer = TransformerEncoderLayer(8, 2, 16, dropout=0.1, attention_dropout=0.2)
    trainer: Any = type("T", (), {"model": layer, "state": type("S", (), {"step": 0})})
    schedule = DropoutSchedule(lambda step: 0.5, layers="attention")
    schedule.on_fit_begin(trainer)
    schedule.on_step_begin(trainer)
    assert (layer.dropout, layer.attention.dropout) == (0.1, 0.5)
    schedule.on_close(trainer)
    assert layer.attention.dropout == 0.2


def test_resumed_run_goes_on_with_the_right_one(tmp_path: Any) -> None:
    def trainer(folder: str, seed: int = 0) -> Trainer:
        callbacks = [DropoutSchedule(ramp(0.5, 0.0, 6)), Checkpoint(tmp_path / folder)]
        return make_trainer(callbacks, seed=seed)

    whole = trainer("whole")
    whole.fit(SeekableLoader(), max_steps=6)
    trainer("part").fit(SeekableLoader(), max_steps=3)
    rest = trainer("part", seed=5)
    rest.fit(SeekableLoader(), max_steps=6, resume="latest")
    assert_same_bits(tensors(whole), tensors(rest))


def test_errors() -> None:
    with pytest.raises(InvalidInputError, match="expected layers with dropout, 'x' fits none"):
        make_trainer([DropoutSchedule(lambda step: 0.0, layers="x")]).fit(SeekableLoader(), max_steps=1)
    with pytest.raises(InvalidInputError, match=r"from 0 to below 1 for step 0, got 1.0"):
        make_trainer([DropoutSchedule(lambda step: 1.0)]).fit(SeekableLoader(), max_steps=1)
