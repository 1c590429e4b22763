"""Scalars for VisualDL (``visualdl --logdir DIR``)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from paddle_infra._core.extras import require
from paddle_infra.train.callbacks import Callback

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


class VisualDLLogger(Callback):
    """Logs ``train/loss`` and ``train/lr`` per step and ``eval/<metric>`` per validation.

    VisualDL shows only the newest file of a folder; a resumed run therefore starts its file with the scalars
    that the previous one holds up to the resumed step. Of several processes only number 0 writes.

    Args:
        directory: the log folder of this run.
    """

    writes_files: ClassVar[bool] = True

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._writer: Any = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Start a new log file.

        Raises:
            MissingExtraError: VisualDL is not installed.
        """
        if trainer.strategy.rank > 0:
            return
        visualdl = require("visualdl", extra="visualdl", purpose="VisualDLLogger")
        earlier = [] if trainer.resumed_from is None else _scalars(self.directory, trainer.state.step)
        self._writer = visualdl.LogWriter(
            logdir=str(self.directory),
            file_name=f"vdlrecords.{time.time_ns()}.log",  # sorts after every earlier one
        )
        for tag, value, step, walltime in earlier:
            self._writer.add_scalar(tag, value, step, walltime)

    def on_step_end(self, trainer: Trainer) -> None:
        """Log the step."""
        self._add("train/loss", trainer.state.loss, trainer.state.step)
        self._add("train/lr", trainer.state.learning_rate, trainer.state.step)

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Log the metrics."""
        for name, value in metrics.items():
            self._add(f"eval/{name}", value, trainer.state.step)

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """Bring the log to the disk: a run resumed from this checkpoint continues it."""
        if self._writer is not None:
            self._writer.flush()

    def on_close(self, trainer: Trainer) -> None:
        """Close the log file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, tag: str, value: float | None, step: int) -> None:
        if self._writer is not None:  # process 0
            self._writer.add_scalar(tag, value, step)


def _scalars(directory: Path, last_step: int) -> list[tuple[str, float, int, int]]:
    """Return (tag, value, step, milliseconds) of the newest log in ``directory``, up to ``last_step``."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from visualdl.proto.record_pb2 import Record
    from visualdl.reader.record_reader import RecordReader

    files = sorted(directory.glob("*vdlrecords*"))
    found: list[tuple[str, float, int, int]] = []
    for content in RecordReader(str(files[-1])).get_all() if files else ():
        record = Record()
        try:
            record.ParseFromString(content)
        except DecodeError:  # the half record at the end of a killed run
            break
        for value in record.values:
            if value.WhichOneof("one_value") == "value" and value.id <= last_step:
                found.append((value.tag, value.value, value.id, value.timestamp))
    return found
