from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError, NonFiniteLossError, TrainingError
from paddle_infra.data import LengthBucketSampler, Loader
from paddle_infra.train import Callback, Trainer, count_items, seed_everything
from tests.train.problem import (
    BATCHES,
    PlainLoader,
    SeekableLoader,
    assert_same_bits,
    clouds,
    evaluator,
    make_trainer,
    mlp,
    tensors,
    training_step,
)


def batches(sizes: list[int], ignored: list[int]) -> list[dict[str, np.ndarray]]:
    """Batches of the given sizes, of which so many labels are ignored."""
    points, _ = clouds()
    labels = np.arange(len(points), dtype=np.int64) % 10
    result, start = [], 0
    for size, drop in zip(sizes, ignored, strict=True):
        chosen = labels[start : start + size].copy()
        chosen[:drop] = -100
        result.append({"points": points[start : start + size], "labels": chosen})
        start += size
    return result


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def trained(loader: Any, *, max_epochs: int = 1, max_steps: int | None = None, **options: Any) -> Trainer:
    seed_everything(0)
    model = mlp(dropout=0.0)
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
    trainer = make_trainer(model=model, optimizer=optimizer, **options)
    trainer.fit(loader, max_epochs=max_epochs, max_steps=max_steps)
    return trainer


@pytest.mark.parametrize(
    "ignored", [[0, 0, 0, 0], [1, 7, 0, 3], [8, 2, 5, 1]], ids=["all", "uneven", "one-empty"]
)
def test_accumulated_windows_equal_one_large_batch(ignored: list[int]) -> None:
    parts = batches([8, 8, 8, 4, 8, 3], [*ignored, 2, 0])  # a window of four, then a short one of two
    small = trained(parts, accumulate=4)
    large = trained([joined(parts[:4]), joined(parts[4:])], accumulate=1)
    assert small.state.step == large.state.step == 2
    assert small.state.items == large.state.items == 39 - sum(ignored) - 2
    assert small.state.loss == pytest.approx(large.state.loss, abs=1e-6)
    left, right = tensors(small), tensors(large)
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=0, atol=1e-6, err_msg=name)


def test_weighting_by_batches_instead_of_items_would_be_seen() -> None:
    """The tolerance of the test above is far below the error that the usual mean of means makes."""
    parts = batches([8, 8], [1, 7])
    exact = tensors(trained([joined(parts)], accumulate=1))
    naive = tensors(trained(parts, accumulate=2, count=lambda batch: 1))
    assert max(np.abs(naive[name] - exact[name]).max() for name in exact) > 1e-3


def test_windows_and_counts() -> None:
    trainer = trained(SeekableLoader(), accumulate=3, max_epochs=2)
    assert (trainer.state.step, trainer.state.epoch, trainer.state.batch) == (10, 2, 0)
    assert (trainer.state.samples, trainer.total_steps) == (400, 10)
    assert trainer.state.items == 2 * count_items({"labels": clouds()[1]})


def test_max_steps_ends_in_the_middle_of_an_epoch() -> None:
    trainer = trained(SeekableLoader(), max_epochs=9, max_steps=BATCHES + 4)
    assert (trainer.state.step, trainer.state.epoch, trainer.state.batch) == (BATCHES + 4, 1, 4)


def test_training_learns_and_is_deterministic() -> None:
    first, second = trained(PlainLoader(), max_epochs=4), trained(PlainLoader(), max_epochs=4)
    assert_same_bits(tensors(first), tensors(second))
    assert first.evaluate(SeekableLoader())["accuracy"] > 0.95


def test_validation_does_not_change_the_training() -> None:
    with_validation = make_trainer()
    with_validation.fit(PlainLoader(), PlainLoader(), max_epochs=2)  # this loader draws random numbers
    without = make_trainer()
    without.fit(PlainLoader(), max_epochs=2)
    assert_same_bits(tensors(with_validation), tensors(without))


def test_scheduler_steps_once_per_optimizer_step() -> None:
    model = mlp()
    schedule = paddle.optimizer.lr.LambdaDecay(1.0, lambda step: 1.0 / (step + 1))
    trainer = make_trainer(
        model=model, optimizer=paddle.optimizer.SGD(schedule, parameters=model.parameters()), accumulate=4
    )
    rates = []

    class Rates(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            rates.append(trainer.state.learning_rate)

    trainer.callbacks = [Rates()]
    trainer.fit(SeekableLoader(), max_epochs=1)
    assert rates == [1.0, 1 / 2, 1 / 3, 1 / 4]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss_is_raised_before_the_optimizer_is_touched(value: float) -> None:
    calls = 0

    def step(model: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        loss = training_step(model, batch)
        return (
            loss * value if calls == 20 else loss
        )  # epoch 2 (13 batches each), batch 7, window 7-8 at step 11

    trainer = make_trainer(training_step=step, accumulate=2)
    seen: list[dict[str, np.ndarray]] = []

    class Keep(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            seen.append(tensors(trainer))

    trainer.callbacks = [Keep()]
    with pytest.raises(
        NonFiniteLossError, match=rf"step 11, epoch 2, batch 7: expected a finite loss, got {value}"
    ):
        trainer.fit(SeekableLoader(), max_epochs=2)
    assert len(seen) == 10
    assert_same_bits(seen[-1], tensors(trainer))


def test_window_without_valid_item() -> None:
    parts = batches([8, 8, 8, 8], [0, 0, 8, 8])
    with pytest.raises(
        TrainingError, match=r"step 2, epoch 1, batch 4: expected at least one valid item, got none"
    ):
        trained(parts, accumulate=2)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "expected a scalar loss tensor, got NoneType"),
        (0.5, "expected a scalar loss tensor, got float"),
        ("vector", r"expected a scalar loss, got a tensor of shape \[3\]"),
        ("detached", "expected a loss that depends on the parameters, got one with stop_gradient=True"),
    ],
)
def test_training_step_must_return_a_scalar_loss(result: Any, message: str) -> None:
    def step(model: Any, batch: Any) -> Any:
        if result == "vector":
            return model(batch["points"])[0, :3]
        return paddle.ones([]) if result == "detached" else result

    with pytest.raises(InvalidInputError, match=f"training_step: {message}"):
        make_trainer(training_step=step).fit(SeekableLoader(), max_steps=1)


def test_loss_of_shape_one_is_a_scalar() -> None:
    trainer = make_trainer(training_step=lambda model, batch: training_step(model, batch).reshape([1]))
    assert trainer.fit(SeekableLoader(), max_steps=2).step == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected max_epochs or max_steps, got neither"),
        ({"max_epochs": 0}, "max_epochs: expected a positive integer, got 0"),
        ({"max_steps": 1.5}, "max_steps: expected a positive integer, got 1.5"),
        ({"max_steps": True}, "max_steps: expected a positive integer, got True"),
    ],
)
def test_bad_limits(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make_trainer().fit(SeekableLoader(), **arguments)


def test_bad_accumulate() -> None:
    with pytest.raises(InvalidInputError, match="accumulate: expected a positive integer, got 0"):
        make_trainer(accumulate=0)


def test_empty_and_exhausted_loaders() -> None:
    with pytest.raises(InvalidInputError, match="expected at least one batch, got none in epoch 1"):
        make_trainer().fit([], max_epochs=1)
    with pytest.raises(InvalidInputError, match=r"got none in epoch 2 .*can be used once only"):
        make_trainer().fit(iter(list(SeekableLoader())), max_epochs=2)
    with pytest.raises(InvalidInputError, match="evaluation loader: expected at least one batch, got none"):
        make_trainer().evaluate([])


def test_error_of_the_loader_surfaces() -> None:
    def loader() -> Iterator[Any]:
        yield from list(SeekableLoader())[:2]
        raise OSError("the disk is gone")

    trainer = make_trainer()
    with pytest.raises(OSError, match="the disk is gone"):
        trainer.fit(loader(), max_epochs=1)
    assert trainer.state.step == 2


def test_evaluator_is_needed_before_training_starts() -> None:
    trainer = make_trainer(evaluator=None)
    with pytest.raises(
        InvalidInputError, match=r"expected Trainer\(evaluator=Evaluator\(step, metrics\)\), got none"
    ):
        trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=1)
    assert trainer.state.step == 0


def test_evaluate_restores_every_layers_mode_even_on_error() -> None:
    trainer = make_trainer(evaluator=evaluator())
    trainer.model[3].eval()  # a layer that the user froze
    modes = [layer.training for layer in trainer.model.sublayers(include_self=True)]
    trainer.evaluate(SeekableLoader())
    assert [layer.training for layer in trainer.model.sublayers(include_self=True)] == modes

    def fails(model: Any, batch: Any) -> Any:
        assert not model.training
        assert not paddle.is_grad_enabled()
        raise ValueError("no")

    assert trainer.evaluator is not None
    trainer.evaluator.step = fails
    with pytest.raises(ValueError, match="no"):
        trainer.evaluate(SeekableLoader())
    assert [layer.training for layer in trainer.model.sublayers(include_self=True)] == modes
    assert paddle.is_grad_enabled()


def test_custom_count_and_tuple_batches() -> None:
    points, _ = clouds()
    labels = np.arange(len(points)) % 10
    loader = [(points[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]

    def step(model: Any, batch: Any) -> Any:
        return paddle.nn.functional.cross_entropy(model(batch[0]), batch[1])

    trainer = make_trainer(training_step=step, count=lambda batch: len(batch[1]))
    assert trainer.fit(loader, max_epochs=2).samples == 128
    with pytest.raises(InvalidInputError, match="expected a dict with the key 'labels', got tuple"):
        make_trainer(training_step=step).fit(loader, max_epochs=1)


def test_second_fit_starts_a_new_run() -> None:
    trainer = make_trainer()
    trainer.fit(SeekableLoader(), max_steps=3)
    assert trainer.fit(SeekableLoader(), max_steps=2).step == 2


def test_the_error_of_a_loss_that_is_not_finite_names_the_samples() -> None:
    class Points:
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"points": np.full(64, math.nan if index == 5 else 1.0, "float32"), "labels": index}

    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        return {name: np.array([sample[name] for sample in samples]) for name in ("points", "labels")}

    def step(model: Any, batch: Any) -> Any:
        return training_step(model, batch) + batch["points"].mean()

    sampler = LengthBucketSampler([1] * 8, 2, shuffle=False)
    loader = Loader(Points(), sampler, collate, with_ids=True)
    with pytest.raises(NonFiniteLossError, match=r"step 3, epoch 1, batch 3: .* this batch \(ids \[4, 5\]\)"):
        make_trainer(training_step=step).fit(loader, max_epochs=1)
