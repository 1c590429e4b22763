"""From a trainer to the content of a checkpoint and back."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import paddle

from paddle_infra._core.errors import CheckpointError
from paddle_infra.train.callbacks import Callback
from paddle_infra.train.checkpoints.checkpoint import CheckpointData, match_weights, read_checkpoint
from paddle_infra.train.checkpoints.optimizer_state import (
    check_schedule,
    load_optimizer,
    load_schedule,
    match_optimizer,
    optimizer_tensors,
    schedule_state,
)
from paddle_infra.train.distributed.processes import together
from paddle_infra.train.rng import get_rng_state, seed_everything, set_rng_state
from paddle_infra.train.state import TrainState

if TYPE_CHECKING:
    from paddle_infra.train.strategy import Strategy
    from paddle_infra.train.trainer import Trainer


def take_snapshot(trainer: Trainer) -> CheckpointData:
    """Return everything that a resumed run needs to go on bit for bit.

    Call it between two steps, in every process at once.
    """
    strategy, callbacks = trainer.strategy, _by_key(trainer.callbacks)
    return CheckpointData(
        weights=strategy.whole_weights(trainer.model),
        optimizer=strategy.full_optimizer_state(optimizer_tensors(trainer.model, trainer.optimizer)),
        callbacks={f"{key}/{name}": t for key, c in callbacks for name, t in c.state_tensors().items()},
        state={
            "train": trainer.state.to_dict(),
            "optimizer": schedule_state(trainer.optimizer),
            "precision": trainer.precision.state_dict(),
            "rng": strategy.gather(get_rng_state()),
            "epoch_rng": trainer.epoch_rng,
            "callbacks": {key: callback.state_dict() for key, callback in callbacks},
        },
    )


def restore_snapshot(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Put ``trainer`` where the checkpoint at ``path`` was taken.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or does not fit, in any process, or it is not the same in
            all; nothing has been changed then.
    """
    strategy = trainer.strategy
    data = together(strategy, lambda: read_checkpoint(path))
    assert data is not None
    _check_same(strategy, data, path)
    try:
        state = TrainState.from_dict(data.state["train"])
        schedule, saved = data.state["optimizer"], data.state["callbacks"]
        precision, epoch_rng = data.state["precision"], data.state["epoch_rng"]
        weights = match_weights(trainer.model, data.weights)
        check_schedule(trainer.optimizer, schedule)
        accumulators = match_optimizer(
            trainer.model, trainer.optimizer, strategy.own_optimizer_state(data.optimizer)
        )
        _restore_rng(trainer, data.state["rng"])  # refuses before it changes anything
    except KeyError as error:
        raise CheckpointError(f"checkpoint {path}: expected the entry {error} in its state") from error
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    with strategy.gathered(trainer.model):
        for target, value in weights:
            target.set_value(value)
    load_optimizer(trainer.optimizer, accumulators)
    load_schedule(trainer.optimizer, schedule)
    trainer.precision.load_state_dict(precision)
    _restore_callbacks(trainer.callbacks, saved, data.callbacks)
    trainer.state, trainer.epoch_rng = state, epoch_rng


def _check_same(strategy: Strategy, data: CheckpointData, path: str | os.PathLike[str]) -> None:
    """Refuse processes that have found different checkpoints, on disks that they do not share."""
    found = strategy.gather((os.fspath(path), data.state["train"]))
    if any(train != found[0][1] for _, train in found):
        steps = [f"{place} (step {train.get('step')})" for place, train in found]
        raise CheckpointError(
            f"expected the same checkpoint in all processes, got {steps}: put it on a disk that all of them see"
        )


def _restore_rng(trainer: Trainer, states: list[dict[str, Any]]) -> None:
    """Give each process its generators back; new processes get others' and say so."""
    strategy = trainer.strategy
    if len(states) != strategy.ranks:
        warnings.warn(
            f"the checkpoint was written by {len(states)} processes, now there are {strategy.ranks}: batches go "
            "on where they were, but dropout draws other numbers",
            stacklevel=2,
        )
    set_rng_state(states[strategy.rank % len(states)])
    if strategy.rank >= len(states):  # not the same numbers as the process that they were copied from
        seed_everything(random.randrange(2**32) ^ strategy.rank)


def _restore_callbacks(
    callbacks: Sequence[Callback], saved: dict[str, Any], tensors: dict[str, paddle.Tensor]
) -> None:
    present = dict(_by_key(callbacks))
    lost = sorted(key for key, state in saved.items() if state and key not in present)
    if lost:
        warnings.warn(
            f"the checkpoint holds the state of callbacks that this run does not have: {lost}", stacklevel=2
        )
    for key, callback in present.items():
        if key in saved:
            callback.load_state_dict(saved[key])
        own = {name.removeprefix(f"{key}/"): t for name, t in tensors.items() if name.startswith(f"{key}/")}
        if own:
            callback.load_state_tensors(own)


def _by_key(callbacks: Sequence[Callback]) -> list[tuple[str, Callback]]:
    """Name each callback by its class, and by its rank within the class if there are several."""
    pairs: list[tuple[str, Callback]] = []
    counts: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__name__
        counts[name] = counts.get(name, 0) + 1
        pairs.append((name if counts[name] == 1 else f"{name}#{counts[name]}", callback))
    return pairs
