"""The checkpoint callback: when to save, what to keep, how to stop on a signal."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from paddle_infra._core.atomic import remove_incomplete, write_json
from paddle_infra._core.errors import CheckpointError, InvalidInputError
from paddle_infra.train.callbacks import Callback
from paddle_infra.train.checkpoints.background import BackgroundJob
from paddle_infra.train.checkpoints.checkpoint import (
    checkpoint_name,
    checkpoints_in,
    newest_intact,
    step_of,
    verify_checkpoint,
    write_checkpoint,
)
from paddle_infra.train.checkpoints.optimizer_state import structured_names
from paddle_infra.train.checkpoints.retention import Ranking, delete, delete_old
from paddle_infra.train.checkpoints.snapshot import take_snapshot
from paddle_infra.train.distributed.processes import together
from paddle_infra.train.interrupt import InterruptWatch, TrainingInterrupted
from paddle_infra.train.metrics.base import metric_value

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


class Checkpoint(Callback):
    """Saves checkpoints ``step-00000042`` in a folder, and one more when the run is stopped by a signal.

    SIGINT (Ctrl-C) and SIGTERM are honoured at the next step boundary, or between two batches of a
    validation: a checkpoint is saved and :class:`~paddle_infra.train.interrupt.TrainingInterrupted` is
    raised. A second signal stops at once. The final state of a run is always saved.

    Args:
        directory: the folder for the checkpoints; created if missing.
        every_steps: save after every so many optimizer steps; None does not.
        every_epoch: save at the end of each epoch.
        keep_last: how many of the newest checkpoints to keep; None keeps all. The best ones are kept besides.
        best_metric: name of a validation metric; the checkpoints with its best values are saved, kept and named
            in ``best.json``.
        mode: "max" if larger values of ``best_metric`` are better, "min" if smaller ones are.
        keep_best: how many of the best checkpoints to keep.
        asynchronous: write in a thread while training goes on: only copying the state stops it (its size in memory
            is needed once more, and again while the file is made). The next save waits for the one before, as
            do the end of the run and its errors; an error of the writing is raised at the next step or save.
        overwrite: whether to delete checkpoints in ``directory`` that are ahead of the start of this run.
            Without it such a folder is refused, because two runs would be mixed in it.
    """

    runs_last: ClassVar[bool] = True
    writes_files: ClassVar[bool] = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_epoch: bool = True,
        keep_last: int | None = 2,
        best_metric: str | None = None,
        mode: Literal["max", "min"] = "max",
        keep_best: int = 1,
        asynchronous: bool = False,
        overwrite: bool = False,
    ) -> None:
        numbers = (("every_steps", every_steps), ("keep_last", keep_last), ("keep_best", keep_best))
        for name, value in numbers:
            if value is not None and value < 1:
                raise InvalidInputError(
                    f"Checkpoint: {name}: expected a positive integer or None, got {value!r}"
                )
        self.directory = Path(directory)
        self.every_steps, self.every_epoch, self.keep_last = every_steps, every_epoch, keep_last
        self.best_metric, self.asynchronous, self.overwrite = best_metric, asynchronous, overwrite
        self.ranking = Ranking(keep_best, mode)
        self.last_path: Path | None = None
        self.best_path: Path | None = None
        self._is_best_unsaved = False
        self._watch, self._background = InterruptWatch(), BackgroundJob()

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Check the folder and take over the signals."""
        structured_names(trainer.model, trainer.optimizer)  # refuse now what could not be saved later
        resumed = None if trainer.resumed_from is None else trainer.resumed_from.resolve()
        self._is_best_unsaved = False
        is_own = resumed is not None and resumed.parent == self.directory.resolve()
        self.last_path = self.directory / resumed.name if resumed is not None and is_own else None
        self.best_path = None
        if not is_own:
            self.ranking.entries = []
        lost = together(
            trainer.strategy, lambda: self._clear_folder(trainer.state.step, resumed), only_first=True
        )
        self._drop_lost(trainer, trainer.strategy.gather(lost)[0])
        self._watch.install()

    def on_step_end(self, trainer: Trainer) -> None:
        """Save if it is time; stop if a signal came."""
        if self.every_steps is not None and trainer.state.step % self.every_steps == 0:
            self.save(trainer)
        if trainer.strategy.ranks == 1:  # several processes learn of an error together, at the next save
            self._background.check()
        self._stop_on_signal(trainer)

    def on_evaluate_batch(self, trainer: Trainer) -> None:
        """Stop if a signal came; several processes, each with its own batches, could not agree on it here."""
        if trainer.strategy.ranks == 1:
            self._stop_on_signal(trainer)

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Note whether this is the best value so far."""
        if self.best_metric is None:
            return
        value = metric_value(metrics, self.best_metric, "Checkpoint")
        if self.ranking.add(value, trainer.state.step):
            trainer.state.best_value, trainer.state.best_step = self.ranking.entries[0]
            self._is_best_unsaved = True

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Save at the end of the epoch."""
        if self.every_epoch or self._is_best_unsaved:
            self.save(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        """Save the final state; a signal that came after the last step still ends the program."""
        if trainer.state.step > 0:
            self.save(trainer)
        together(trainer.strategy, self._background.wait)
        self._stop_on_signal(trainer)

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        """Save if a signal stopped the run; after any other exception the state may be half-changed."""
        if isinstance(error, TrainingInterrupted):
            error.checkpoint = self.save(trainer)
            together(trainer.strategy, self._background.wait)

    def on_close(self, trainer: Trainer) -> None:
        """Give the signals back, and end the thread."""
        self._watch.restore()
        self._background.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the steps with the best values."""
        return {"ranking": self.ranking.entries} if self.ranking.entries else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self.ranking.entries = [
            (value, step) for value, step in state.get("ranking", [])[: self.ranking.size]
        ]

    def save(self, trainer: Trainer) -> Path:
        """Save a checkpoint, unless this run has already saved one at this step, and delete what is not kept.

        Raises:
            StorageError: it, or the one before if that was written in the background, could not be written;
                earlier checkpoints are untouched.
        """
        path = self.directory / checkpoint_name(trainer.state.step)
        snapshot = take_snapshot(trainer) if path != self.last_path else None
        if snapshot is not None and self.asynchronous:
            snapshot = snapshot.copy()
        best = self.ranking.to_json(self.best_metric) if self.best_metric and self.ranking.entries else None
        steps = self.ranking.steps()

        def write() -> None:
            if snapshot is not None:
                write_checkpoint(path, snapshot)
            if best is not None:
                write_json(self.directory / "best.json", best)
            delete_old(self.directory, self.keep_last, steps)

        # No process goes on before the file is there (or begun), and all stop if it cannot be written.
        if self.asynchronous:
            together(trainer.strategy, lambda: self._background.start(write), only_first=True)
        else:
            together(trainer.strategy, write, only_first=True)
        self.last_path, self._is_best_unsaved = path, False
        self.best_path = self.directory / checkpoint_name(steps[0]) if best is not None else None
        if snapshot is not None:
            trainer.call("on_checkpoint", path)
        return path

    def _clear_folder(self, step: int, resumed: Path | None) -> list[int]:
        """Take away what is not of this run; return the steps of the best checkpoints that are lost."""
        remove_incomplete(self.directory)
        for path in checkpoints_in(self.directory):
            if path.resolve() != resumed and step_of(path) >= step:
                self._clear_newer(path, step)
        (self.directory / "best.json").unlink(missing_ok=True)  # perhaps of another run
        lost = []
        for best in self.ranking.steps():
            try:
                verify_checkpoint(self.directory / checkpoint_name(best))
            except CheckpointError as error:
                warnings.warn(f"one of the best checkpoints is lost: {error}", stacklevel=2)
                lost.append(best)
        return lost

    def _drop_lost(self, trainer: Trainer, lost: list[int]) -> None:
        """Go on with the best checkpoints that are there."""
        self.ranking.drop(lost)
        if lost:
            first = self.ranking.entries[0] if self.ranking.entries else (None, None)
            trainer.state.best_value, trainer.state.best_step = first
        if self.best_metric is not None and self.ranking.entries:
            best = self.ranking.to_json(self.best_metric)
            together(
                trainer.strategy, lambda: write_json(self.directory / "best.json", best), only_first=True
            )
            self.best_path = self.directory / checkpoint_name(self.ranking.steps()[0])

    def _clear_newer(self, path: Path, step: int) -> None:
        if self.overwrite:
            delete(path)
            return
        try:
            verify_checkpoint(path)
        except CheckpointError:
            # Resuming has already warned of it. Out of the way, because this run will reach the same step.
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            return
        start = f"resumes after step {step} from elsewhere" if step else "starts anew"
        raise CheckpointError(
            f"{self.directory}: expected no checkpoint ahead of this run, which {start}, found {path.name}. "
            "Continue that run with resume='latest', choose another folder, or pass overwrite=True"
        )

    def _stop_on_signal(self, trainer: Trainer) -> None:
        signal_name = self._watch.signal_name
        if trainer.strategy.sum([signal_name is not None])[0]:  # all processes stop after the same step
            raise TrainingInterrupted(signal_name or "a signal to another process", trainer.state.step)


def resume_path(callbacks: Sequence[Callback], resume: str | os.PathLike[Any]) -> Path:
    """Return the checkpoint to resume from: ``resume`` itself, or for "latest" the newest intact one.

    Raises:
        InvalidInputError: "latest" without a checkpoint callback.
        CheckpointError: "latest", but there is no intact checkpoint.
    """
    if resume != "latest":
        return Path(resume)
    for callback in callbacks:
        if isinstance(callback, Checkpoint):
            return newest_intact(callback.directory)
    raise InvalidInputError(
        "resume='latest': expected a Checkpoint callback (its folder is searched), got none"
    )
