"""The base class of everything that watches a run: progress, logging, checkpoints, early stopping."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import paddle

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


class Callback:
    """Hooks that the trainer calls; every one does nothing until overridden.

    Order within a run: ``on_fit_begin``; per epoch ``on_epoch_begin``; for each optimizer step
    ``on_step_begin``, ``on_gradients`` and ``on_step_end`` (a window that is skipped has only the first one, or
    two); then (with an ``eval_loader``) ``on_evaluate_begin``, ``on_evaluate_batch`` …, ``on_evaluate_end``,
    ``on_validation_end``; then ``on_epoch_end``. At last ``on_fit_end``, or ``on_exception`` if anything was
    raised, and always ``on_close``. Callbacks are called in the order they were given, except that those with
    ``runs_last`` come after all others. An exception in a callback ends the run.

    With several processes every one of them calls its callbacks: what is written or shown must come from
    ``trainer.strategy.rank == 0`` only.
    """

    runs_last: ClassVar[bool] = False
    """True for callbacks that save what the others did (checkpoints)."""

    writes_files: ClassVar[bool] = False
    """True for callbacks that leave files behind; :func:`~paddle_infra.train.fast_dev_run` leaves them out."""

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Training starts; a checkpoint, if any, has been loaded."""

    def on_epoch_begin(self, trainer: Trainer) -> None:
        """The loader is about to be started, perhaps in the middle of an epoch (``trainer.state.batch``)."""

    def on_step_begin(self, trainer: Trainer) -> None:
        """A window of batches is about to be trained on, if there is one: at the end of an epoch there is not."""

    def on_gradients(self, trainer: Trainer) -> None:
        """The gradients of a step are complete (summed over all processes), the optimizer has not stepped yet."""

    def on_step_end(self, trainer: Trainer) -> None:
        """An optimizer step is complete; ``trainer.state`` counts it and holds its loss."""

    def on_evaluate_begin(self, trainer: Trainer, batches: int | None) -> None:
        """An evaluation starts; ``batches`` is its length if known. Also called outside ``fit``."""

    def on_evaluate_batch(self, trainer: Trainer) -> None:
        """One batch was evaluated. Also called outside ``fit``."""

    def on_evaluate_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """An evaluation is complete. Also called outside ``fit``: to act on training use the next one."""

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """``fit`` has evaluated its ``eval_loader``: the place to log, to pick the best, to stop early."""

    def evaluation_context(self, trainer: Trainer) -> AbstractContextManager[Any]:
        """Return a context in which every evaluation runs, for instance one that exchanges the weights."""
        return nullcontext()

    def on_epoch_end(self, trainer: Trainer) -> None:
        """The loader is exhausted and validated; ``trainer.state.epoch`` counts the epoch."""

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """A checkpoint was written to ``path``, or (``Checkpoint(asynchronous=True)``) is being written."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Training ended as planned or by ``state.stop``."""

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        """Training or evaluation ends with ``error``, which is raised again afterwards."""

    def on_close(self, trainer: Trainer) -> None:
        """Last call of a run, whatever happened: release files, threads and handlers."""

    def state_tensors(self) -> dict[str, paddle.Tensor]:
        """Return what must survive a restart as tensors, by name; they are saved in every checkpoint."""
        return {}

    def load_state_tensors(self, tensors: dict[str, paddle.Tensor]) -> None:
        """Take back what :meth:`state_tensors` returned, if it was not empty; called before ``on_fit_begin``."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a restart, as JSON values; it is saved in every checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned; called before ``on_fit_begin``."""
