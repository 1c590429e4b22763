"""A run with everything that has a state, as a script in fresh processes that are killed.

``python -m tests.train.kill_case DIR`` trains two epochs with accumulation, dropout, random augmentation in worker
processes and a weight average, and writes weights, optimizer state and average to ``DIR/final.npz``. At the top level
it imports neither Paddle nor the trainer, because the workers import it.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from paddle_infra.data import LengthBucketSampler, Loader

SAMPLES, BATCH, CLASSES = 240, 6, 10
STEPS = 28  # 40 micro-batches in windows of 3 make 14 steps, the last one with one micro-batch; two epochs


class Clouds:
    """Points around one centre per class, with noise and a random sign drawn while reading."""

    def __init__(self, is_noisy: bool) -> None:
        generator = np.random.default_rng(0)
        self.labels = generator.integers(CLASSES, size=SAMPLES)
        self.points = generator.normal(size=(CLASSES, 64))[self.labels].astype(np.float32)
        self.is_noisy = is_noisy

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        noise = np.random.normal(size=64).astype(np.float32) if self.is_noisy else np.float32(0)
        return self.points[index] + noise, -100 if index % 7 == 0 else int(self.labels[index])


def collate(samples: list[tuple[np.ndarray, int]]) -> dict[str, Any]:
    return {"points": np.stack([s[0] for s in samples]), "labels": np.array([s[1] for s in samples])}


def loader(workers: int, is_noisy: bool) -> Loader:
    sampler = LengthBucketSampler(np.ones(SAMPLES), BATCH, shuffle=is_noisy)
    return Loader(Clouds(is_noisy), sampler, collate, workers=workers, with_ids=True)


def train(directory: Path, workers: int, asynchronous: bool, resume: str | None, kill: list[int]) -> None:
    """Train; ``kill`` is empty or (step, n): after that step, die at the n-th file that is brought to the disk."""
    from paddle_infra.train import EMA, Callback, Checkpoint, History, Trainer
    from tests.train import problem

    real_sync = os.fsync

    class Killer(Callback):
        """Dies while something is written, and prints the steps so that another process can time its signal."""

        armed = False
        syncs = 0

        def on_step_end(self, trainer: Trainer) -> None:
            print(f"step {trainer.state.step}", flush=True)
            self.armed = bool(kill) and trainer.state.step >= kill[0]

        def sync(self, descriptor: int) -> None:
            # Of a checkpoint's files only: in the background they take turns with the history's.
            self.syncs += self.armed and ".incomplete-step-" in os.readlink(f"/proc/self/fd/{descriptor}")
            if self.armed and self.syncs == kill[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            real_sync(descriptor)

    def step(model: Any, batch: Any) -> Any:
        time.sleep(0.003)  # steps take so long that a signal can be timed
        return problem.training_step(model, batch)

    killer, average = Killer(), EMA(0.9)
    os.fsync = killer.sync
    callbacks = [
        killer,
        average,
        History(directory / "history.jsonl"),
        Checkpoint(
            directory / "checkpoints",
            every_steps=2,
            best_metric="loss",
            mode="min",
            keep_best=2,
            asynchronous=asynchronous,
        ),
    ]
    trainer = problem.make_trainer(callbacks, accumulate=3, training_step=step)
    trainer.fit(loader(workers, True), loader(0, False), max_epochs=2, resume=resume)
    averaged = {f"average/{name}": tensor.numpy() for name, tensor in average.state_tensors().items()}
    np.savez(directory / "final.npz", **problem.tensors(trainer), **averaged)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--resume", default=None)
    parser.add_argument("--kill", type=int, nargs=2, default=[])
    options = parser.parse_args()
    train(options.directory, options.workers, options.asynchronous, options.resume, options.kill)


if __name__ == "__main__":
    main()
