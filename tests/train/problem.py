"""A small training problem (ten noisy point clouds), used in-process and as a script in fresh processes.

``python -m tests.train.problem DIR`` trains with checkpoints every 2 steps in ``DIR/checkpoints``, and writes
the final weights and optimizer state to ``DIR/final.npz``.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddle_infra.train import (
    F1,
    Accuracy,
    Callback,
    Checkpoint,
    Evaluator,
    History,
    MeanLoss,
    Trainer,
    TrainingInterrupted,
    adamw,
    count_items,
    seed_everything,
)
from paddle_infra.train.checkpoints.optimizer_state import optimizer_tensors

SAMPLES, BATCH = 200, 16
BATCHES = 13  # the last one has 8 samples
CLASSES = 10


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """Points [200, 64] around one centre per class, and labels of which every 7th is ignored."""
    generator = np.random.default_rng(0)
    labels = generator.integers(CLASSES, size=SAMPLES)
    points = generator.normal(size=(CLASSES, 64))[labels] + generator.normal(size=(SAMPLES, 64))
    labels[::7] = -100
    return points.astype(np.float32), labels


class SeekableLoader:
    """Order from the epoch number alone; can start anywhere."""

    def __init__(self) -> None:
        self.points, self.labels = clouds()

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self.iterate(0)

    def iterate(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[dict[str, np.ndarray]]:
        order = np.random.default_rng(epoch).permutation(SAMPLES)
        for index in range(start, BATCHES, step):
            chosen = order[index * BATCH : (index + 1) * BATCH]
            yield {"points": self.points[chosen], "labels": self.labels[chosen]}


class PlainLoader:
    """Order and noise from the global generators of NumPy and Python; can only start at the beginning."""

    def __init__(self) -> None:
        self.points, self.labels = clouds()

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        order = np.random.permutation(SAMPLES)
        for index in range(BATCHES):
            chosen = order[index * BATCH : (index + 1) * BATCH]
            noise = np.random.normal(scale=random.uniform(0.0, 0.1), size=(len(chosen), 64))
            yield {"points": self.points[chosen] + noise.astype(np.float32), "labels": self.labels[chosen]}


def mlp(dropout: float = 0.2) -> paddle.nn.Layer:
    return paddle.nn.Sequential(
        paddle.nn.Linear(64, 32),
        paddle.nn.LayerNorm(32),
        paddle.nn.ReLU(),
        paddle.nn.Dropout(dropout),
        paddle.nn.Linear(32, CLASSES),
    )


def mean_loss(logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    """The mean over the valid labels. (Paddle's own mean counts the ignored ones too.)"""
    total = paddle.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
    return total / count_items({"labels": labels})


def training_step(model: paddle.nn.Layer, batch: dict[str, paddle.Tensor]) -> paddle.Tensor:
    return mean_loss(model(batch["points"]), batch["labels"])


def evaluation_step(model: paddle.nn.Layer, batch: dict[str, paddle.Tensor]) -> dict[str, Any]:
    logits = model(batch["points"])
    loss = mean_loss(logits, batch["labels"])
    return {"logits": logits, "labels": batch["labels"], "loss": loss, "items": count_items(batch)}


def evaluator() -> Evaluator:
    return Evaluator(evaluation_step, [MeanLoss(), Accuracy(CLASSES), F1(CLASSES)])


def make_trainer(callbacks: Sequence[Callback] = (), *, seed: int = 0, **options: Any) -> Trainer:
    """A trainer with a fresh model; the same seed gives the same run."""
    seed_everything(seed)
    model = options.pop("model", None) or mlp()
    optimizer = options.pop("optimizer", None) or adamw(
        model, 1e-2, weight_decay=0.01, warmup_steps=3, total_steps=10
    )
    options.setdefault("evaluator", evaluator())
    step = options.pop("training_step", training_step)
    return Trainer(model, optimizer, step, callbacks=callbacks, **options)


def tensors(trainer: Trainer) -> dict[str, np.ndarray]:
    """Weights and optimizer state by structured name."""
    with trainer.strategy.gathered(trainer.model):
        named = {f"model/{name}": value.numpy() for name, value in trainer.model.state_dict().items()}
    optimizer = optimizer_tensors(trainer.model, trainer.optimizer)
    return named | {f"optimizer/{name}": value.numpy() for name, value in optimizer.items()}


def assert_same_bits(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    differing = [name for name in left if left[name].tobytes() != right[name].tobytes()]
    assert not differing


class StepReporter(Callback):
    """Prints every step, so that another process can time its signal."""

    def on_step_end(self, trainer: Trainer) -> None:
        print(f"step {trainer.state.step}", flush=True)


class KilledStep:
    """A training step whose n-th call kills the process with SIGKILL."""

    def __init__(self, at: int) -> None:
        self.calls, self.at = 0, at

    def __call__(self, model: paddle.nn.Layer, batch: dict[str, paddle.Tensor]) -> paddle.Tensor:
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return training_step(model, batch)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--loader", choices=["seekable", "plain"], default="seekable")
    parser.add_argument("--kill-at", type=int, default=0, help="call of the training step that is killed")
    parser.add_argument("--resume", default=None)
    parser.add_argument("--max-steps", type=int, default=10)
    options = parser.parse_args()
    loader = {"seekable": SeekableLoader, "plain": PlainLoader}[options.loader]()
    callbacks = [
        Checkpoint(options.directory / "checkpoints", every_steps=2, best_metric="macro_f1"),
        History(options.directory / "history.jsonl"),
        StepReporter(),
    ]
    trainer = make_trainer(callbacks, accumulate=3, training_step=KilledStep(options.kill_at))
    try:
        trainer.fit(loader, SeekableLoader(), max_steps=options.max_steps, resume=options.resume)
    except TrainingInterrupted as error:
        print(error, flush=True)
        sys.exit(error.exit_code)
    np.savez(options.directory / "final.npz", **tensors(trainer))


if __name__ == "__main__":
    main()
