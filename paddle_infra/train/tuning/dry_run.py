"""Short runs that show whether the long one will work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from paddle_infra._core.checks import check_positive
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.batches import EpochBatches
from paddle_infra.train.state import TrainState
from paddle_infra.train.strategy import SingleDevice
from paddle_infra.train.tuning.trial import trial

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


class FirstBatches:
    """The first batches of a loader's first epoch, read once and the same in every epoch.

    Args:
        loader: an iterable of batches.
        count: how many; all, if it has fewer.

    Raises:
        InvalidInputError: the loader is empty.
    """

    def __init__(self, loader: Any, count: int) -> None:
        # All processes read all of them: which are whose is decided when they are dealt.
        self._batches = list(islice(EpochBatches(loader, 0, 0, None, SingleDevice()), count))
        if not self._batches:
            raise InvalidInputError("loader: expected at least one batch, got none")

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the batches."""
        return iter(self._batches)

    def iterate(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[Any]:
        """Return every ``step``-th batch from ``start`` on."""
        return iter(self._batches[start::step])


def fast_dev_run(
    trainer: Trainer, train_loader: Any, eval_loader: Any = None, *, windows: int = 2
) -> TrainState:
    """Run everything once, briefly: ``windows`` optimizer steps, and as many batches of each validation.

    For errors that would otherwise come after an hour: in the loaders, the training step, the metrics, the
    callbacks. Callbacks that write files (``writes_files``: checkpoints, logs) are left out. Model, optimizer,
    schedule, precision and random generators are bit for bit as before afterwards.

    Args:
        trainer: what to try, between two calls of ``fit``.
        train_loader: as for :meth:`Trainer.fit <paddle_infra.train.Trainer.fit>`.
        eval_loader: as there.
        windows: optimizer steps.

    Returns:
        The state at the end of the short run.

    Raises:
        InvalidInputError: ``windows`` is below 1, or a loader is empty.
        Exception: whatever ``fit`` raises.
    """
    check_positive("windows", windows)
    state = trainer.state
    harmless = [callback for callback in trainer.callbacks if not callback.writes_files]
    try:
        with trial(trainer):
            trainer.callbacks = harmless
            few = FirstBatches(train_loader, windows * trainer.accumulate * trainer.strategy.ranks)
            return trainer.fit(few, _first_of_each(eval_loader, windows), max_epochs=1)
    finally:
        trainer.state = state


def overfit_batches(
    trainer: Trainer, train_loader: Any, *, batches: int = 1, max_epochs: int = 100
) -> TrainState:
    """Train on the first ``batches`` batches again and again: a model that can learn gets their loss near zero.

    If it does not, the loss, the labels or the learning rate are wrong, and more data will not help. With an
    evaluator the same batches are evaluated after each epoch. All callbacks run. The trainer keeps what it has
    learned: use a fresh one for the real run.

    Args:
        trainer: what to train.
        train_loader: an iterable of batches.
        batches: how many.
        max_epochs: how often each is trained on.

    Returns:
        The final state.

    Raises:
        InvalidInputError: a number is below 1, or the loader is empty.
        Exception: whatever ``fit`` raises.
    """
    check_positive("batches", batches)
    few = FirstBatches(train_loader, batches)
    return trainer.fit(few, few if trainer.evaluator is not None else None, max_epochs=max_epochs)


def _first_of_each(loader: Any, count: int) -> Any:
    if isinstance(loader, Mapping):
        return {name: FirstBatches(each, count) for name, each in loader.items()}
    return None if loader is None else FirstBatches(loader, count)
