"""The history of a run as JSON lines: what reports and plots are made of."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

from paddle_infra._core.errors import CheckpointError, StorageError
from paddle_infra.train.callbacks import Callback
from paddle_infra.train.distributed.processes import together

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


class History(Callback):
    """Appends one JSON object per optimizer step and per validation to a file.

    ``{"kind": "train", "step", "epoch", "loss", "lr", "samples", "items", "seconds"}`` and
    ``{"kind": "eval", "step", "epoch", "metrics", "seconds"}``: ``lr`` is the rate the step was made with,
    epochs count from 1, ``seconds`` is the time trained in this process, and a value that is NaN or infinite
    is null. A new run replaces the file; a resumed run first cuts it back to where it was at the checkpoint,
    so that no step appears twice. Of several processes only number 0 writes.

    Args:
        path: the file, usually ``history.jsonl`` in the folder of the run.
    """

    writes_files: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: IO[bytes] | None = None
        self._size_bytes = 0

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Open the file."""
        if trainer.resumed_from is None:
            self._size_bytes = 0
        self._start = time.monotonic()
        together(trainer.strategy, self._open, only_first=True)

    def _open(self) -> None:
        found = self.path.stat().st_size if self.path.exists() else 0
        if found < self._size_bytes:
            raise CheckpointError(
                f"{self.path}: expected the history of the resumed run, at least {self._size_bytes} bytes, "
                f"got {found}"
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            self._file.truncate(self._size_bytes)
        except OSError as error:
            raise StorageError(error.errno, f"cannot write {self.path}: {error.strerror}") from error

    def on_step_end(self, trainer: Trainer) -> None:
        """Append the step."""
        state = trainer.state
        self._append(
            {
                "kind": "train",
                "step": state.step,
                "epoch": state.epoch + 1,
                "loss": state.loss,
                "lr": state.learning_rate,
                "samples": state.samples,
                "items": state.items,
            }
        )

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Append the metrics."""
        state = trainer.state
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._append({"kind": "eval", "step": state.step, "epoch": state.epoch + 1, "metrics": values})

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """Bring the file to the disk: a run resumed from this checkpoint continues it."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def on_close(self, trainer: Trainer) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def state_dict(self) -> dict[str, Any]:
        """Return how long the file is."""
        return {"size_bytes": self._size_bytes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self._size_bytes = state["size_bytes"]

    def _append(self, record: dict[str, Any]) -> None:
        if self._file is None:  # not process 0
            return
        record["seconds"] = round(time.monotonic() - self._start, 3)
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            os.truncate(self.path, self._size_bytes)  # no half line
            raise StorageError(error.errno, f"cannot write {self.path}: {error.strerror}") from error
        self._size_bytes += len(line)


def read_history(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the records of a history file; a half last line (a killed run) is left out."""
    lines = Path(path).read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]
