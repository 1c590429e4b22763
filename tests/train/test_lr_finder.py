"""The range test: its curve, its suggestions, and that it leaves no trace."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError, TrainingError
from paddle_infra.train import (
    Callback,
    LearningRateCurve,
    find_learning_rate,
    get_rng_state,
    optimizer,
    schedule_factor,
    seed_everything,
)
from tests.train.averaged import network
from tests.train.problem import PlainLoader, SeekableLoader, assert_same_bits, make_trainer, tensors

pytestmark = pytest.mark.filterwarnings("ignore:When training, we now always track global mean and variance")


class Parabola(paddle.nn.Layer):
    """Loss (x - 1)² / 2 + 1: a step of rate r multiplies x - 1 by 1 - r."""

    def __init__(self) -> None:
        super().__init__()
        start = paddle.nn.initializer.Constant(3.0)
        self.x = self.create_parameter([1], default_initializer=start)

    def forward(self, batch: Any) -> Any:
        return ((self.x - 1.0) ** 2 / 2 + 1.0).sum()


def parabola() -> Any:
    model = Parabola()
    return make_trainer(
        model=model,
        optimizer=optimizer(model, 0.5, name="sgd"),
        training_step=lambda model, batch: model(batch),
        count=len,
    )


def test_losses_by_hand() -> None:
    curve = find_learning_rate(parabola(), [[0]], low=0.015, high=150.0, steps=41, smoothing=0.5)
    distance, losses, smoothed, average = 2.0, [], [], 0.0
    for index in range(len(curve.rates)):
        rate = 0.015 * 10 ** (index / 10)
        assert curve.rates[index] == pytest.approx(rate, rel=1e-12)
        losses.append(distance**2 / 2 + 1)
        average = average / 2 + losses[-1] / 2
        smoothed.append(average / (1 - 0.5 ** (index + 1)))
        distance *= 1 - rate
    np.testing.assert_allclose(curve.losses, losses, rtol=1e-4)
    np.testing.assert_allclose(curve.smoothed, smoothed, rtol=1e-4)
    assert curve.divergence == curve.rates[-1] < 150  # stopped early, where four times the best was exceeded
    assert smoothed[-1] > 4 * min(smoothed) > smoothed[-2]
    assert curve.suggestion("divergence") == curve.rates[-1] / 10
    slopes = np.array(smoothed[2:]) - np.array(smoothed[:-2])
    assert curve.suggestion() == curve.rates[1 + int(slopes.argmin())]
    assert 0.01 < curve.suggestion() < 2.0  # above 2 this parabola diverges


def test_a_loss_that_is_not_finite_ends_the_test() -> None:
    trainer = parabola()
    trainer._step.training_step = lambda model, batch: (
        model(batch) * (1.0 if model.x.abs() < 10 else math.inf)
    )
    curve = find_learning_rate(trainer, [[0]], low=0.015, high=1.5e6, steps=81, bound=math.inf)
    assert curve.divergence is not None
    assert curve.divergence > curve.rates[-1]
    assert all(map(math.isfinite, curve.losses))
    assert trainer.model.x.item() == 3.0


@pytest.mark.parametrize("loader", [SeekableLoader, PlainLoader])
@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("rate", ["constant", "schedule"])
def test_leaves_no_trace(loader: Any, steps_before: int, rate: str) -> None:
    """BatchNorm's statistics, dropout's generator, the optimizer's accumulators and the schedule are as before."""

    def trainer(callbacks: Any = ()) -> Any:
        paddle.seed(3)
        model = network()
        schedule = schedule_factor("cosine", 2, 9) if rate == "schedule" else None
        ours = optimizer(model, 0.05, schedule=schedule, weight_decay=0.1)
        return make_trainer(callbacks, model=model, optimizer=ours, accumulate=2)

    class Counter(Callback):
        calls = 0

        def on_gradients(self, trainer: Any) -> None:
            Counter.calls += 1

    tested, plain = trainer([Counter()]), trainer()
    for item in (plain, tested):
        if steps_before:
            seed_everything(1)
            item.fit(loader(), max_steps=steps_before)
    tested.model[3].eval()
    seed_everything(2)
    rng, before, calls = get_rng_state(), tensors(tested), Counter.calls
    curve = find_learning_rate(tested, loader(), low=1e-4, high=1.0, steps=20, bound=1e9)
    assert len(curve.rates) == 20  # more than the 7 windows of an epoch
    assert get_rng_state() == rng
    assert_same_bits(tensors(tested), before)
    assert Counter.calls == calls
    assert (tested.model.training, tested.model[3].training) == (True, False)
    assert all(p.grad is None for p in tested.model.parameters())
    assert tested.optimizer.get_lr() == plain.optimizer.get_lr()
    tested.model[3].train()
    for item in (plain, tested):
        seed_everything(4)
        item.fit(loader(), max_steps=5)
    assert_same_bits(tensors(tested), tensors(plain))
    assert tested.state == plain.state


def test_restores_after_an_error() -> None:
    trainer = make_trainer()
    before, state = tensors(trainer), trainer.optimizer._learning_rate.state_dict()
    calls = iter(range(100))
    step = trainer._step.training_step

    def broken(model: Any, batch: Any) -> Any:
        if next(calls) == 7:
            raise RuntimeError("broken")
        return step(model, batch)

    trainer._step.training_step = broken
    with pytest.raises(RuntimeError, match="broken"):
        find_learning_rate(trainer, SeekableLoader())
    assert_same_bits(tensors(trainer), before)
    assert trainer.optimizer._learning_rate.state_dict() == state


def test_curve_on_disk(tmp_path: Path) -> None:
    curve = find_learning_rate(make_trainer(), SeekableLoader(), low=1e-5, high=10.0, steps=30)
    curve.save_svg(tmp_path / "curve.svg")
    root = ElementTree.parse(tmp_path / "curve.svg").getroot()
    lines = [element for element in root if element.tag.endswith("polyline")]
    assert [len(line.attrib["points"].split()) for line in lines] == [len(curve.rates)] * 2
    coordinates = [tuple(map(float, point.split(","))) for point in lines[1].attrib["points"].split()]
    assert coordinates == sorted(coordinates)  # from left to right
    lowest = int(np.argmin(curve.smoothed))
    assert coordinates[lowest][1] == max(y for _, y in coordinates)  # which is at the bottom


def test_curves_without_a_suggestion() -> None:
    rising = LearningRateCurve((1.0, 2.0, 4.0), (1.0, 2.0, 3.0), (1.0, 2.0, 3.0), None)
    with pytest.raises(TrainingError, match="expected a loss that falls somewhere between 1 and 4, got none"):
        rising.suggestion()
    with pytest.raises(TrainingError, match="expected a loss that explodes below 4, got none"):
        rising.suggestion("divergence")
    with pytest.raises(InvalidInputError, match="rule: expected 'steepest' or 'divergence', got 'best'"):
        rising.suggestion("best")  # type: ignore[arg-type]


def test_explosion_at_once_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"expected at least 10 steps before .*, got \d: .* lower than 5"):
        find_learning_rate(parabola(), [[0]], low=5.0, high=100.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "expected 0 < low < high, got 0.0 and 10.0"),
        ({"low": 2.0, "high": 1.0}, "expected 0 < low < high, got 2.0 and 1.0"),
        ({"steps": 9}, "steps: expected an integer of 10 or more, got 9"),
        ({"smoothing": 1.0}, "smoothing: expected a number from 0 up to but not 1, got 1.0"),
        ({"bound": 1.0}, "bound: expected a number above 1, got 1.0"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        find_learning_rate(parabola(), [[0]], **options)


def test_empty_loader() -> None:
    with pytest.raises(InvalidInputError, match="a loader with at least one batch, got none"):
        find_learning_rate(parabola(), [])
