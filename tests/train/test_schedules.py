"""Schedules against values computed by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import Checkpoint, optimizer, schedule_factor
from tests.train.problem import SeekableLoader, assert_same_bits, make_trainer, mlp, tensors

HALF = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("schedule", "options", "expected"),
    [
        # 2 warm-up steps, 6 in all: 1/2, 2/2, then x = 0, 1/4, 2/4, 3/4, 1, 1
        ("constant", {}, [0.5, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", {"minimum": 0.2}, [0.5, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2]),
        ("cosine", {"minimum": 0.5}, [0.5, 1, 1, 0.75 + HALF / 4, 0.75, 0.75 - HALF / 4, 0.5, 0.5]),
        ("cosine", {"cycles": 2}, [0.5, 1, 1, 0.5, 1, 0.5, 0, 0]),
        ("polynomial", {"power": 2.0}, [0.5, 1, 1, 9 / 16, 4 / 16, 1 / 16, 0, 0]),
        (
            "polynomial",
            {"power": 0.5, "minimum": 0.5},
            [0.5, 1, 1, 0.5 + math.sqrt(3) / 4, 0.5 + HALF / 2, 0.75, 0.5, 0.5],
        ),
        # sqrt(2 / 3), sqrt(2 / 4), sqrt(2 / 5), … but not below 0.6
        (
            "inverse_sqrt",
            {},
            [0.5, 1, 0.816496580927726, HALF, 0.632455532033676, 0.577350269189626, 0.534522483824849, 0.5],
        ),
        (
            "inverse_sqrt",
            {"minimum": 0.6},
            [0.5, 1, 0.816496580927726, HALF, 0.632455532033676, 0.6, 0.6, 0.6],
        ),
    ],
)
def test_by_hand(schedule: Any, options: dict[str, Any], expected: list[float]) -> None:
    function = schedule_factor(schedule, 2, 6, **options)
    assert [function(step) for step in range(8)] == pytest.approx(expected, abs=1e-15)


def test_three_cycles_start_at_the_peak_and_end_at_the_minimum() -> None:
    function = schedule_factor("cosine", 0, 9, cycles=3, minimum=0.1)
    # within a cycle: x = 0, 1/3, 2/3 and cos(pi / 3) = 1/2
    assert [function(step) for step in range(10)] == pytest.approx([1, 0.775, 0.325] * 3 + [0.1], abs=1e-12)


def test_without_warmup_the_first_step_has_the_peak() -> None:
    for schedule in ("constant", "linear", "cosine", "polynomial", "inverse_sqrt"):
        assert schedule_factor(schedule, 0, 4)(0) == 1.0  # type: ignore[arg-type]
    assert schedule_factor("inverse_sqrt", 0, None)(3) == 0.5


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        ("linear", {"minimum": 1.5}, "minimum: expected a factor from 0 to 1, got 1.5"),
        ("linear", {"minimum": math.nan}, "minimum: expected a factor from 0 to 1, got nan"),
        ("constant", {"minimum": 0.1}, "minimum: expected 0.0 for schedule 'constant', got 0.1"),
        ("cosine", {"cycles": 0}, "cycles: expected a positive integer, got 0"),
        ("cosine", {"cycles": 1.5}, "cycles: expected a positive integer, got 1.5"),
        ("linear", {"cycles": 2}, "cycles: expected 1 for schedule 'linear', got 2"),
        ("polynomial", {"power": 0.0}, "power: expected a positive number, got 0.0"),
        ("cosine", {"power": 2.0}, "power: expected 1.0 for schedule 'cosine', got 2.0"),
        ("square", {}, "schedule: expected 'linear', .* or 'inverse_sqrt', got 'square'"),
    ],
)
def test_bad_arguments(schedule: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        schedule_factor(schedule, 0, 10, **options)


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("constant", {}),
        ("linear", {"minimum": 0.1}),
        ("cosine", {"cycles": 2}),
        ("polynomial", {"power": 2.0}),
        ("inverse_sqrt", {}),
    ],
)
def test_resumes_in_the_middle(tmp_path: Path, schedule: Any, options: dict[str, Any]) -> None:
    def trainer(callbacks: Any = ()) -> Any:
        model = mlp()
        factor = schedule_factor(schedule, 2, 8, **options)
        return make_trainer(
            callbacks, model=model, optimizer=optimizer(model, 0.1, name="sgd", schedule=factor)
        )

    whole = trainer([Checkpoint(tmp_path, every_steps=3, keep_last=None)])
    whole.fit(SeekableLoader(), max_steps=8)
    resumed = trainer()
    state = resumed.fit(SeekableLoader(), max_steps=8, resume=tmp_path / "step-00000003")
    assert state.learning_rate == 0.1 * schedule_factor(schedule, 2, 8, **options)(7)
    assert_same_bits(tensors(whole), tensors(resumed))
