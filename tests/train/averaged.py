"""``python -m tests.train.averaged DIR [--kill-at N] [--resume latest]``: a run with BatchNorm, EMA and SWA.

Writes the final weights, optimizer state and averages to ``DIR/final.npz``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddle_infra.train import EMA, SWA, Checkpoint, Trainer, seed_everything
from tests.train.problem import CLASSES, KilledStep, SeekableLoader, make_trainer, tensors


def network() -> paddle.nn.Layer:
    return paddle.nn.Sequential(
        paddle.nn.Linear(64, 32),
        paddle.nn.BatchNorm1D(32),
        paddle.nn.ReLU(),
        paddle.nn.Dropout(0.2),
        paddle.nn.Linear(32, CLASSES),
    )


def forward(model: paddle.nn.Layer, batch: dict[str, Any]) -> Any:
    return model(batch["points"])


def averages() -> tuple[EMA, SWA]:
    return EMA(0.9), SWA(3, every_steps=2, batches=SeekableLoader(), forward=forward)


def averaged_trainer(directory: Path, step: Any = None) -> Trainer:
    seed_everything(0)  # before the model: make_trainer seeds only what it makes itself
    callbacks = [Checkpoint(directory / "checkpoints", every_steps=1, keep_last=None), *averages()]
    options = {} if step is None else {"training_step": step}
    return make_trainer(callbacks, model=network(), accumulate=3, **options)


def all_tensors(trainer: Trainer) -> dict[str, np.ndarray]:
    found = tensors(trainer)
    for callback in trainer.callbacks:
        name = type(callback).__name__
        found |= {f"{name}/{key}": tensor.numpy() for key, tensor in callback.state_tensors().items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kill-at", type=int, default=0, help="call of the training step that is killed")
    parser.add_argument("--resume", default=None)
    options = parser.parse_args()
    trainer = averaged_trainer(options.directory, KilledStep(options.kill_at))
    trainer.fit(SeekableLoader(), SeekableLoader(), max_steps=10, resume=options.resume)
    np.savez(options.directory / "final.npz", **all_tensors(trainer))


if __name__ == "__main__":
    main()
