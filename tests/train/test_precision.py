"""Precisions. Mixed precision cannot run here: what can be held to account without a GPU is."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra import ops
from paddle_infra._core.errors import CheckpointError, InvalidInputError, UnsupportedError
from paddle_infra.train import Checkpoint, ClipByGlobalNorm, Float32, MixedPrecision
from paddle_infra.train.checkpoints.optimizer_state import load_optimizer, match_optimizer, optimizer_tensors
from paddle_infra.train.precision import precision_from
from tests.train.problem import SeekableLoader, assert_same_bits, make_trainer, mlp, tensors, training_step


@pytest.mark.parametrize("name", ["bf16", "bfloat16", "fp16", "float16"])
def test_mixed_precision_on_a_cpu_is_an_error_that_says_so(name: str) -> None:
    with pytest.raises(
        UnsupportedError,
        match=r"precision '\w+' on device 'cpu': expected 'float32', or 'medium'.*does nothing there",
    ):
        make_trainer(precision=name)


def test_names() -> None:
    assert isinstance(precision_from(None, "cpu"), Float32)
    assert isinstance(precision_from("float32", "gpu:0"), Float32)
    own = Float32()
    assert precision_from(own, "cpu") is own
    with pytest.raises(
        InvalidInputError, match=r"expected one of \['float32', 'highest', .*\] .* got 'float64'"
    ):
        precision_from("float64", "cpu")
    with pytest.raises(InvalidInputError, match=r"matmul: expected .*'highest'.*'medium'.*got 'low'"):
        Float32("low")
    with pytest.raises(InvalidInputError, match=r"level: expected .*'O1'.*'O2'.*got 'O3'"):
        MixedPrecision(level="O3")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["highest", "medium"])
def test_products_of_the_operators_follow_the_precision(name: str) -> None:
    seen: list[str] = []

    def step(model: Any, batch: Any) -> paddle.Tensor:
        seen.append(ops.get_matmul_precision())
        return training_step(model, batch)

    other = "medium" if name == "highest" else "highest"
    with ops.set_matmul_precision(other):
        make_trainer(precision=name, training_step=step).fit(SeekableLoader(), max_steps=2)
        make_trainer(training_step=step).fit(SeekableLoader(), max_steps=1)
    assert seen == [name, name, other]


def test_medium_rounds_and_highest_does_not() -> None:
    """With an operator of this package in the model, medium precision shows in the weights, a little."""

    def trained(name: str) -> dict[str, np.ndarray]:
        def step(model: Any, batch: Any) -> paddle.Tensor:
            hidden = model[:4](batch["points"])
            return ops.linear_cross_entropy(hidden, model[4].weight, batch["labels"], weight_layout="dv")

        paddle.seed(0)
        model = mlp(0.0)
        model[4] = paddle.nn.Linear(32, 24)  # more than 16 classes: those would always be exact
        trainer = make_trainer(model=model, precision=name, training_step=step)
        trainer.fit(SeekableLoader(), max_steps=3)
        return tensors(trainer)

    exact, rounded = trained("highest"), trained("medium")
    difference = max(np.abs(exact[name] - rounded[name]).max() for name in exact if name.startswith("model/"))
    assert 1e-6 < difference < 0.05


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Paddle's loss scaling believe in a GPU; its kernels run on the CPU too."""
    place = types.SimpleNamespace(is_gpu_place=lambda: True)
    tracer = types.SimpleNamespace(_expected_place=place)
    monkeypatch.setattr(paddle.amp.grad_scaler, "_dygraph_tracer", lambda: tracer)


class Scaled(MixedPrecision):
    """float16's loss scaling, on float32 tensors: a CPU casts nothing."""

    def __init__(self) -> None:
        super().__init__("float16", init_loss_scaling=1024.0, device="gpu:0")

    @contextmanager
    def forward(self) -> Iterator[None]:
        """What of ``auto_cast`` the loss scaling looks at."""
        state = paddle.amp.grad_scaler.amp_global_state()
        before, state.amp_dtype = state.amp_dtype, "float16"
        yield
        state.amp_dtype = before


def scaled_trainer(folder: Any = None, **options: Any) -> Any:
    paddle.seed(0)
    model = mlp(0.0)
    optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters(), grad_clip=ClipByGlobalNorm(1.0))
    callbacks = [] if folder is None else [Checkpoint(folder)]
    return make_trainer(callbacks, model=model, optimizer=optimizer, precision=Scaled(), **options)


def test_a_scaled_loss_gives_the_same_steps(pretended_gpu: None) -> None:
    """The scale is a power of two: not a bit differs, clipping and its norm included."""
    scaled, plain = scaled_trainer(), scaled_trainer()
    plain._step.precision = plain.precision = Float32()
    for trainer in (scaled, plain):
        trainer.fit(SeekableLoader(), max_steps=4)
    assert_same_bits(tensors(scaled), tensors(plain))
    assert scaled.state.grad_norm == plain.state.grad_norm > 1


class Overflowing:
    """A training step whose gradient overflows in some calls."""

    def __init__(self, *calls: int) -> None:
        self.calls, self.count = calls, 0

    def __call__(self, model: Any, batch: Any) -> paddle.Tensor:
        self.count += 1
        loss = training_step(model, batch)
        return loss if self.count not in self.calls else loss + paddle.sqrt(model[0].weight.sum() * 0.0)


def test_an_overflow_lowers_the_scale_and_is_no_step(pretended_gpu: None) -> None:
    order = list(SeekableLoader())
    trainer = scaled_trainer(training_step=Overflowing(2))
    trainer.fit(order, max_epochs=1)
    assert (trainer.state.step, trainer.state.skipped) == (len(order) - 1, 1)
    assert trainer.precision.state_dict()["scale"] == [512.0]
    without = scaled_trainer()
    without.fit([*order[:1], *order[2:]], max_epochs=1)
    assert_same_bits(tensors(trainer), tensors(without))


def test_the_scale_survives_a_restart(pretended_gpu: None, tmp_path: Any) -> None:
    first = scaled_trainer(tmp_path, training_step=Overflowing(2))
    first.fit(SeekableLoader(), max_steps=3)
    second = scaled_trainer(tmp_path)
    second.fit(SeekableLoader(), max_steps=3, resume="latest")
    assert second.precision.state_dict() == first.precision.state_dict()
    assert second.precision.state_dict()["scale"] == [512.0]
    plain = scaled_trainer()
    plain.precision.scaler = None
    with pytest.raises(CheckpointError, match="expected no state of a loss scaling for float16, got"):
        plain.fit(SeekableLoader(), max_steps=4, resume=tmp_path / "step-00000003")


def test_master_weights_are_part_of_a_checkpoint() -> None:
    """A CPU cannot step 16-bit parameters, but it can make what the first step would make."""

    def bfloat16(seed: int) -> tuple[paddle.nn.Layer, paddle.optimizer.Optimizer]:
        paddle.seed(seed)
        model = mlp(0.0)
        model.to(dtype="bfloat16")
        optimizer = paddle.optimizer.AdamW(0.1, parameters=model.parameters(), multi_precision=True)
        block = paddle.static.default_main_program().global_block()
        optimizer._create_accumulators(block, model.parameters())
        return model, optimizer

    (model, optimizer), (other, empty) = bfloat16(0), bfloat16(1)
    saved = optimizer_tensors(model, optimizer)
    assert saved["0.weight/master_weight"].dtype == paddle.float32
    saved = {name: tensor + 1 if "master" in name else tensor for name, tensor in saved.items()}
    load_optimizer(empty, match_optimizer(other, empty, saved))
    loaded = optimizer_tensors(other, empty)
    assert_same_bits({n: t.numpy() for n, t in saved.items()}, {n: t.numpy() for n, t in loaded.items()})
