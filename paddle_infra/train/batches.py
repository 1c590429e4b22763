"""Batches on their way into the loop: counting, grouping into windows, starting in the middle of an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from paddle_infra._core.errors import CheckpointError, InvalidInputError
from paddle_infra.train.rng import get_rng_state, set_rng_state
from paddle_infra.train.strategy import Strategy

IGNORE_INDEX = -100


def count_items(batch: Any) -> int:
    """Return the number of valid items of a batch: entries of ``batch["labels"]`` that are not -100.

    Raises:
        InvalidInputError: the batch is not a dict with the key "labels".
    """
    if not isinstance(batch, dict) or "labels" not in batch:
        got = f"a dict with the keys {sorted(batch)}" if isinstance(batch, dict) else type(batch).__name__
        raise InvalidInputError(
            f"count_items: expected a dict with the key 'labels', got {got}; "
            "pass Trainer(count=...) for other batches"
        )
    return int(np.count_nonzero(np.asarray(batch["labels"]) != IGNORE_INDEX))


def batch_size(batch: Any) -> int:
    """Return the first dimension of the first array or tensor found in ``batch``; 0 if there is none."""
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return next((size for size in map(batch_size, batch) if size), 0)
    shape: Any = getattr(batch, "shape", ())
    return int(shape[0]) if len(shape) else 0


def windows(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Group batches into lists of ``size``; the last one is shorter if they do not divide.

    No batch beyond the window is fetched, so that between two windows the loader has given out exactly what
    was trained on.
    """
    iterator = iter(batches)
    while window := list(islice(iterator, size)):
        yield window


def length_of(loader: Any) -> int | None:
    """Return ``len(loader)``, or None for a loader that has no length."""
    try:
        return len(loader)
    except TypeError:  # no __len__, or one that says the length is unknown
        return None


def planned_steps(length: int | None, epochs: int | None, accumulate: int, strategy: Strategy) -> int | None:
    """Return the optimizer steps of ``epochs`` over a loader of ``length`` batches; None if either is unknown.

    Raises:
        InvalidInputError: there are fewer batches than processes, so that some would never train.
    """
    if length is None:
        return None
    if 0 < length < strategy.ranks:
        raise InvalidInputError(
            f"train_loader: expected at least one batch for each of the {strategy.ranks} processes, got {length} in all"
        )
    return None if epochs is None else epochs * math.ceil(length / (accumulate * strategy.ranks))


class EpochBatches:
    """One process's batches of an epoch, from batch ``start`` on, exactly as an uninterrupted run would see them.

    Batches are dealt in turn: of N processes, number r gets batches ``start + r``, ``start + r + N``, …

    A loader with ``iterate(epoch, start, step)`` does this itself. Any other iterable (in one process) is started
    again from the random state that the epoch began with, ``start`` batches are drawn and dropped, and then the
    random state of the checkpoint is put back. That is exact for loaders whose only memory is the global
    generators of Python, NumPy and Paddle.

    Args:
        loader: any iterable of batches.
        epoch: which epoch, from 0.
        start: how many batches to leave out, of those of all processes.
        rng_at_start: random state at the start of the epoch; needed if ``start`` is not 0 and the loader has
            no ``iterate``.
        strategy: says how many processes there are, and which one this is.

    Attributes:
        rng_at_start: random state at the start of the epoch (for the next checkpoint).

    Raises:
        InvalidInputError: several processes, and a loader that has no ``iterate``.
    """

    def __init__(
        self, loader: Any, epoch: int, start: int, rng_at_start: dict[str, Any] | None, strategy: Strategy
    ) -> None:
        self._loader, self._epoch, self._start = loader, epoch, start
        self._rank, self._ranks = strategy.rank, strategy.ranks
        self._iterate: Callable[..., Iterable[Any]] | None = getattr(loader, "iterate", None)
        if self._ranks > 1 and self._iterate is None:
            raise InvalidInputError(
                f"loader: expected one with iterate(epoch, start, step) for {self._ranks} processes, such as "
                f"paddle_infra.data.Loader, got {type(loader).__name__}: all would train on the same batches"
            )
        self.rng_at_start: dict[str, Any] = rng_at_start or get_rng_state()

    def __iter__(self) -> Iterator[Any]:
        if self._iterate is not None:
            share = (self._start + self._rank, self._ranks) if self._ranks > 1 else (self._start,)
            return iter(self._iterate(self._epoch, *share))
        if self._start == 0:
            return iter(self._loader)
        now = get_rng_state()
        set_rng_state(self.rng_at_start)
        iterator = iter(self._loader)
        skipped = sum(1 for _ in islice(iterator, self._start))
        set_rng_state(now)
        if skipped < self._start:
            raise CheckpointError(
                f"cannot resume in epoch {self._epoch + 1} after batch {self._start}: "
                f"expected a loader with at least that many batches, got {skipped}"
            )
        return iterator
