"""From a trainer to the content of a checkpoint and back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paddle_infra._core.errors import CheckpointError
from paddle_infra.train.callbacks import Callback
from paddle_infra.train.checkpoint import CheckpointData, match_weights, read_checkpoint
from paddle_infra.train.optimizer_state import (
    check_schedule,
    load_optimizer,
    load_schedule,
    match_optimizer,
    optimizer_tensors,
    schedule_state,
)
from paddle_infra.train.rng import get_rng_state, set_rng_state
from paddle_infra.train.state import TrainState

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


def take_snapshot(trainer: Trainer) -> CheckpointData:
    """Return everything that a resumed run needs to go on bit for bit. Call it between two steps."""
    return CheckpointData(
        weights=dict(trainer.model.state_dict()),
        optimizer=optimizer_tensors(trainer.model, trainer.optimizer),
        state={
            "train": trainer.state.to_dict(),
            "optimizer": schedule_state(trainer.optimizer),
            "rng": get_rng_state(),
            "epoch_rng": trainer.epoch_rng,
            "callbacks": {key: callback.state_dict() for key, callback in _by_key(trainer.callbacks)},
        },
    )


def restore_snapshot(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Put ``trainer`` where the checkpoint at ``path`` was taken.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or does not fit; nothing has been changed then.
    """
    data = read_checkpoint(path)
    try:
        state = TrainState.from_dict(data.state["train"])
        schedule, saved = data.state["optimizer"], data.state["callbacks"]
        rng, epoch_rng = data.state["rng"], data.state["epoch_rng"]
        weights = match_weights(trainer.model, data.weights)
        check_schedule(trainer.optimizer, schedule)
        accumulators = match_optimizer(trainer.model, trainer.optimizer, data.optimizer)
        set_rng_state(rng)  # refuses before it changes anything
    except KeyError as error:
        raise CheckpointError(f"checkpoint {path}: expected the entry {error} in its state") from error
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    for target, value in weights:
        target.set_value(value)
    load_optimizer(trainer.optimizer, accumulators)
    load_schedule(trainer.optimizer, schedule)
    _restore_callbacks(trainer.callbacks, saved)
    trainer.state, trainer.epoch_rng = state, epoch_rng


def _restore_callbacks(callbacks: Sequence[Callback], saved: dict[str, Any]) -> None:
    present = dict(_by_key(callbacks))
    lost = sorted(key for key, state in saved.items() if state and key not in present)
    if lost:
        warnings.warn(
            f"the checkpoint holds the state of callbacks that this run does not have: {lost}", stacklevel=2
        )
    for key, callback in present.items():
        if key in saved:
            callback.load_state_dict(saved[key])


def _by_key(callbacks: Sequence[Callback]) -> list[tuple[str, Callback]]:
    """Name each callback by its class, and by its rank within the class if there are several."""
    pairs: list[tuple[str, Callback]] = []
    counts: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__name__
        counts[name] = counts.get(name, 0) + 1
        pairs.append((name if counts[name] == 1 else f"{name}#{counts[name]}", callback))
    return pairs
