"""Paddle's profiler around some steps of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import paddle

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.callbacks import Callback

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


class Profiler(Callback):
    """Records some optimizer steps with ``paddle.profiler`` and writes a trace for ``chrome://tracing`` or Perfetto.

    The file is ``steps-<first>-<last>.json`` (with the process's rank before the ending, if there are several).

    Args:
        directory: the folder for the file; created if missing.
        first_step: the first step that is recorded, from 1. Leave some out: they compile and allocate.
        steps: how many are recorded.

    Attributes:
        path: the file, once it is written.

    Raises:
        InvalidInputError: a number is below 1.
    """

    writes_files: ClassVar[bool] = True

    def __init__(self, directory: str | os.PathLike[str], *, first_step: int = 10, steps: int = 5) -> None:
        if first_step < 1 or steps < 1:
            raise InvalidInputError(
                f"Profiler: expected first_step >= 1 and steps >= 1, got {first_step} and {steps}"
            )
        self.directory, self.first_step, self.last_step = Path(directory), first_step, first_step + steps - 1
        self.path: Path | None = None
        self._profiler: paddle.profiler.Profiler | None = None

    def on_step_begin(self, trainer: Trainer) -> None:
        """Start before the first step."""
        if trainer.state.step + 1 == self.first_step and self._profiler is None and self.path is None:
            # Without a function of our own Paddle writes every trace to ./profiler_log as well.
            self._profiler = paddle.profiler.Profiler(on_trace_ready=lambda profiler: None)
            self._profiler.start()

    def on_step_end(self, trainer: Trainer) -> None:
        """Stop after the last step, and write."""
        if self._profiler is None:
            return
        if trainer.state.step < self.last_step:
            self._profiler.step()
            return
        self._stop(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        """Write what there is, if the run ended within the recorded steps."""
        if self._profiler is not None:
            self._stop(trainer)

    def on_close(self, trainer: Trainer) -> None:
        """Stop without a file, after an error."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _stop(self, trainer: Trainer) -> None:
        assert self._profiler is not None
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        self.directory.mkdir(parents=True, exist_ok=True)
        rank = f".{trainer.strategy.rank}" if trainer.strategy.ranks > 1 else ""
        path = self.directory / f"steps-{self.first_step}-{trainer.state.step}{rank}.json"
        temporary = path.with_name(f".incomplete-{path.name}-{os.getpid()}")
        profiler.export(str(temporary), "json")
        os.replace(temporary, path)
        self.path = path
