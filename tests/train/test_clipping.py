"""Gradient clipping is Paddle's, and says what it found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError, NonFiniteLossError, TrainingError
from paddle_infra.train import Callback, ClipByGlobalNorm, ClipByValue, Trainer
from paddle_infra.train.trainer import MOST_SKIPPED_IN_A_ROW
from tests.train.problem import SeekableLoader, assert_same_bits, make_trainer, mlp, tensors, training_step


def sgd(model: paddle.nn.Layer, clip: Any) -> paddle.optimizer.Optimizer:
    return paddle.optimizer.SGD(0.1, parameters=model.parameters(), grad_clip=clip)


def trained(clip: Any, **options: Any) -> Trainer:
    paddle.seed(0)
    model = mlp(dropout=0.0)
    trainer = make_trainer(model=model, optimizer=sgd(model, clip), **options)
    trainer.fit(SeekableLoader(), max_steps=4)
    return trainer


@pytest.mark.parametrize(
    ("ours", "paddles"),
    [
        (ClipByGlobalNorm(0.5), paddle.nn.ClipGradByGlobalNorm(0.5)),
        (ClipByValue(0.01), paddle.nn.ClipGradByValue(0.01)),
        (ClipByGlobalNorm(math.inf), None),
    ],
    ids=["norm", "value", "measure"],
)
def test_same_steps_as_paddle(ours: Any, paddles: Any) -> None:
    left, right = tensors(trained(ours)), tensors(trained(paddles))
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=0, atol=1e-6, err_msg=name)


class Norms(Callback):
    """Works the norm out by itself."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.reported: list[float | None] = []

    def on_gradients(self, trainer: Trainer) -> None:
        squares = [(p.grad.numpy().astype("float64") ** 2).sum() for p in trainer.model.parameters()]
        self.norms.append(math.sqrt(sum(squares)))

    def on_step_end(self, trainer: Trainer) -> None:
        self.reported.append(trainer.state.grad_norm)


@pytest.mark.parametrize("clip", [ClipByGlobalNorm(0.5), ClipByValue(0.01)], ids=["norm", "value"])
def test_the_norm_before_clipping_is_reported(clip: Any) -> None:
    norms = Norms()
    trained(clip, callbacks=[norms])
    assert norms.reported == pytest.approx(norms.norms, rel=1e-5)
    assert len(norms.norms) == 4
    assert trained(None).state.grad_norm is None


class Poison:
    """A training step whose loss, or gradient, is not finite in the window of some of its calls."""

    def __init__(self, calls: set[int], what: str) -> None:
        self.calls, self.what, self.count = calls, what, 0

    def __call__(self, model: paddle.nn.Layer, batch: Any) -> paddle.Tensor:
        self.count += 1
        loss = training_step(model, batch)
        if self.count not in self.calls:
            return loss
        # The square root of 0 is finite, its slope is not.
        return loss * math.nan if self.what == "loss" else loss + paddle.sqrt(model[0].weight.sum() * 0.0)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_windows_that_are_not_finite_are_skipped_and_counted(what: str) -> None:
    """As if the loader did not have them."""
    order = list(SeekableLoader())
    good = [batch for index, batch in enumerate(order) if index // 2 not in (1, 4)]

    def run(batches: list[Any], step: Any) -> Trainer:
        paddle.seed(0)
        model = mlp(dropout=0.0)
        trainer = make_trainer(
            model=model,
            optimizer=sgd(model, ClipByGlobalNorm(1.0)),
            accumulate=2,
            non_finite="skip",
            training_step=step,
        )
        trainer.fit(batches, max_epochs=1)
        return trainer

    # Calls 3 and 4 are window 1; a loss that is not finite ends its window, a gradient does not.
    poisoned = run(order, Poison({3, 8} if what == "loss" else {4, 9}, what))
    clean = run(good, training_step)
    assert (poisoned.state.skipped, clean.state.skipped) == (2, 0)
    assert poisoned.state.step == clean.state.step == 5
    assert_same_bits(tensors(poisoned), tensors(clean))


def test_a_gradient_that_is_not_finite_is_an_error_before_the_optimizer_steps() -> None:
    model = mlp(dropout=0.0)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    trainer = make_trainer(
        model=model, optimizer=sgd(model, ClipByGlobalNorm(1.0)), training_step=Poison({1}, "gradient")
    )
    with pytest.raises(
        NonFiniteLossError, match="step 1, epoch 1, batch 1: expected finite gradients, got the norm"
    ):
        trainer.fit(SeekableLoader(), max_steps=1)
    assert_same_bits(before, {name: value.numpy() for name, value in model.state_dict().items()})


def test_a_model_that_is_lost_is_not_skipped_forever() -> None:
    trainer = make_trainer(non_finite="skip", training_step=Poison(set(range(10_000)), "loss"))
    with pytest.raises(
        TrainingError, match=f"step 1: {MOST_SKIPPED_IN_A_ROW} windows in a row were not finite"
    ):
        trainer.fit(SeekableLoader(), max_steps=1)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_limits_are_checked(value: float) -> None:
    with pytest.raises(InvalidInputError, match="max_norm: expected a positive number"):
        ClipByGlobalNorm(value)
    with pytest.raises(InvalidInputError, match="limit: expected a positive number"):
        ClipByValue(value)
    with pytest.raises(InvalidInputError, match="non_finite: expected 'raise' or 'skip', got 'ignore'"):
        make_trainer(non_finite="ignore")
