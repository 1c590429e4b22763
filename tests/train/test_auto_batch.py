"""The batch that fits: real errors of exhausted memory, equal gradients, no trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError, TrainingError, UnsupportedError
from paddle_infra.train import Callback, find_batch_size
from paddle_infra.train.tuning.auto_batch import is_out_of_memory
from tests.train.problem import (
    SAMPLES,
    assert_same_bits,
    clouds,
    make_trainer,
    mlp,
    tensors,
    training_step,
)

ROOT = Path(__file__).parents[2]


def loader(batch_size: int) -> list[dict[str, np.ndarray]]:
    points, labels = clouds()
    return [
        {"points": points[i : i + batch_size], "labels": labels[i : i + batch_size]}
        for i in range(0, SAMPLES, batch_size)
    ]


class Limited:
    """A training step that asks Paddle for more memory than there is if the batch is larger than ``most``."""

    def __init__(self, most: int) -> None:
        self.most, self.sizes = most, list[int]()

    def __call__(self, model: paddle.nn.Layer, batch: dict[str, paddle.Tensor]) -> paddle.Tensor:
        loss = training_step(model, batch)
        self.sizes.append(len(batch["labels"]))
        if len(batch["labels"]) > self.most:
            paddle.empty([1 << 48], "float32")
        return loss


def test_under_a_limit_of_memory() -> None:
    """RLIMIT_AS in a fresh process: the errors are those of Paddle's own allocator in a training step."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.train.memory_limit"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["batch_size"] < 64
    assert result["batch_size"] * result["accumulate"] == 64
    assert len(result["met"]) == {32: 1, 16: 2, 8: 3, 4: 4}[result["batch_size"]]
    assert all("(ResourceExhausted) Fail to alloc memory" in text for text in result["met"])
    assert result["is_put_back"]
    assert result["samples"] == 128


@pytest.mark.parametrize("steps_before", [0, 2])
def test_gradients_equal_those_of_the_wanted_batch(steps_before: int) -> None:
    class Gradients(Callback):
        def __init__(self) -> None:
            self.seen: list[dict[str, np.ndarray]] = []

        def on_gradients(self, trainer: Any) -> None:
            self.seen.append({n: p.grad.numpy().copy() for n, p in trainer.model.named_parameters()})

    found, whole = Gradients(), Gradients()
    step = Limited(10**9)
    limited = make_trainer([found], training_step=step, accumulate=1)
    wanted = make_trainer([whole], accumulate=1)
    for trainer in (limited, wanted):
        trainer.model[3].p = 0.0  # dropout draws other numbers for other batches
        if steps_before:
            trainer.fit(loader(40), max_steps=steps_before)
    found.seen.clear()
    whole.seen.clear()
    step.most = 10
    plan = find_batch_size(limited, loader, 40)
    assert (plan.batch_size, plan.accumulate, limited.accumulate) == (10, 4, 4)
    assert not found.seen
    limited.fit(plan.loader, max_steps=3)
    wanted.fit(loader(40), max_steps=3)
    assert limited.state.samples == wanted.state.samples == 120
    assert len(found.seen) == len(whole.seen) == 3
    for left, right in zip(found.seen, whole.seen, strict=True):
        for name in right:
            np.testing.assert_allclose(left[name], right[name], rtol=1e-3, atol=1e-6, err_msg=name)


def test_leaves_no_trace() -> None:
    step = Limited(10**9)
    tested, plain = make_trainer(training_step=step), make_trainer(training_step=step)
    for trainer in (tested, plain):
        paddle.seed(0)
        trainer.fit(loader(40), max_steps=3)
    before = tensors(tested)
    step.most, step.sizes = 20, []
    find_batch_size(tested, loader, 40)
    assert step.sizes == [40, 20, 20]  # the second trial has two batches
    assert_same_bits(tensors(tested), before)
    plain.accumulate = 2
    for trainer in (tested, plain):
        paddle.seed(1)
        trainer.fit(loader(20), max_steps=3)
    assert_same_bits(tensors(tested), tensors(plain))


def test_what_fits_at_once_stays() -> None:
    trainer = make_trainer(training_step=Limited(50), accumulate=3)
    plan = find_batch_size(trainer, loader, 50)
    assert (plan.batch_size, plan.accumulate, trainer.accumulate, len(plan.loader)) == (50, 3, 3, 4)


@pytest.mark.parametrize(
    ("most", "size", "smallest", "message"),
    [
        (
            5,
            40,
            10,
            "none from 40 down to 10, and the smallest is to be 10. The last error: .*Fail to alloc memory",
        ),
        (5, 36, 1, "none from 36 down to 9, and 9 cannot be halved"),
        (0, 4, 1, "none from 4 down to 1, and 1 cannot be halved"),
    ],
)
def test_nothing_fits(most: int, size: int, smallest: int, message: str) -> None:
    trainer = make_trainer(training_step=Limited(most))
    before = tensors(trainer)
    with pytest.raises(TrainingError, match=message):
        find_batch_size(trainer, loader, size, smallest=smallest)
    assert trainer.accumulate == 1
    assert_same_bits(tensors(trainer), before)


def test_other_errors_are_raised() -> None:
    def broken(model: Any, batch: Any) -> Any:
        return paddle.matmul(paddle.ones([2, 3]), paddle.ones([4, 5]))

    trainer = make_trainer(training_step=broken)
    before = tensors(trainer)
    with pytest.raises(ValueError, match="InvalidArgument"):
        find_batch_size(trainer, loader, 40)
    assert_same_bits(tensors(trainer), before)


def test_which_errors_say_that_memory_is_exhausted() -> None:
    with pytest.raises(MemoryError) as real:
        paddle.empty([1 << 48], "float32")
    assert is_out_of_memory(real.value)
    assert is_out_of_memory(MemoryError())
    # Texts of the sources of Paddle and of NVIDIA's headers; no GPU has raised them in this test.
    assert is_out_of_memory(
        RuntimeError("ResourceExhaustedError: \n\nOut of memory error on GPU 0. Cannot allocate")
    )
    assert is_out_of_memory(OSError("(External) CUDA error(2), out of memory."))
    assert is_out_of_memory(OSError("(External) CUBLAS error(3). CUBLAS_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(ValueError("ResourceExhausted"))
    assert not is_out_of_memory(RuntimeError("(External) CUDA error(700), an illegal memory access"))
    assert not is_out_of_memory(OSError(28, "No space left on device"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected an integer of 1 or more, got 0"),
        ({"batch_size": 4, "smallest": 0}, "smallest: expected an integer of 1 or more, got 0"),
        ({"batch_size": 4, "batches": 1}, "batches: expected an integer of 2 or more, got 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        find_batch_size(make_trainer(), loader, **arguments)


def test_several_processes_and_empty_loaders_are_refused() -> None:
    trainer = make_trainer(model=mlp())
    with pytest.raises(InvalidInputError, match="a loader with at least one batch, got none"):
        find_batch_size(trainer, lambda _: [], 4)
    trainer.strategy.ranks = 2
    with pytest.raises(UnsupportedError, match="expected one process, got 2"):
        find_batch_size(trainer, loader, 4)
