from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import Checkpoint, EarlyStopping
from tests.train.problem import SeekableLoader, make_trainer
from tests.train.test_checkpointing import FakeScores


def epochs_run(values: list[float], **options: Any) -> int:
    stopping = EarlyStopping("score", **options)
    trainer = make_trainer([FakeScores(*values), stopping])
    return trainer.fit(list(SeekableLoader())[:1], SeekableLoader(), max_epochs=len(values)).epoch


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([1, 2, 3, 4, 5], {"patience": 1}, 5),
        ([1, 2, 2, 1, 5], {"patience": 2}, 4),
        ([1, 2, 2, 3, 3, 3, 9], {"patience": 2}, 6),
        ([5, 4, 4, 3, 3], {"patience": 1, "mode": "min"}, 3),
        ([1.0, 1.05, 1.15, 1.2, 1.3], {"patience": 2, "min_delta": 0.1}, 5),
        ([1.0, 1.05, 1.09, 1.2], {"patience": 2, "min_delta": 0.1}, 3),
        ([float("nan")] * 5, {"patience": 3}, 3),
    ],
)
def test_stops_after_so_many_misses(values: list[float], options: dict[str, Any], expected: int) -> None:
    assert epochs_run(values, **options) == expected


def test_reason_is_given() -> None:
    trainer = make_trainer([FakeScores(0.75, 0.5, 0.5), EarlyStopping("score", patience=2)])
    state = trainer.fit(list(SeekableLoader())[:1], SeekableLoader(), max_epochs=9)
    assert state.stop_reason == "score has not improved on 0.75 by more than 0 in 2 validations"


def test_state_survives_a_restart(tmp_path: Path) -> None:
    def trainer() -> Any:
        scores = FakeScores(0.5, 0.4, 0.3, 0.2, 0.1)
        return make_trainer([scores, EarlyStopping("score", patience=3), Checkpoint(tmp_path)])

    loader = list(SeekableLoader())[:2]
    trainer().fit(loader, SeekableLoader(), max_epochs=2)
    state = trainer().fit(loader, SeekableLoader(), max_epochs=9, resume="latest")
    assert state.epoch == 4
    again = trainer().fit(loader, SeekableLoader(), max_epochs=9, resume="latest")  # it remains stopped
    assert (again.epoch, again.should_stop) == (4, True)


def test_second_run_of_one_callback_starts_afresh() -> None:
    stopping = EarlyStopping("score", patience=1)
    trainer = make_trainer([FakeScores(0.5, 0.6, 0.1, 0.0), stopping])
    loader = list(SeekableLoader())[:1]
    assert trainer.fit(loader, SeekableLoader(), max_epochs=4).epoch == 3
    assert trainer.fit(loader, SeekableLoader(), max_epochs=4).epoch == 3


def test_bad_arguments_and_unknown_metric() -> None:
    with pytest.raises(InvalidInputError, match="expected patience >= 1 and min_delta >= 0, got 0 and 0"):
        EarlyStopping("score", patience=0)
    trainer = make_trainer([EarlyStopping("f1")])
    with pytest.raises(InvalidInputError, match="EarlyStopping: expected the validation metric 'f1'"):
        trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=1)
