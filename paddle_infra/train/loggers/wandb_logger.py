"""The log of a run for Weights & Biases."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Literal

from paddle_infra._core.errors import InvalidInputError, StorageError
from paddle_infra._core.extras import require
from paddle_infra.train.loggers.histogram import Histogram
from paddle_infra.train.loggers.logger import HParam, Logger
from paddle_infra.train.loggers.wandb_file import logged_names
from paddle_infra.train.metrics.curves import PrecisionRecallCurve

_PATIENCE_S = 10.0  # for the process that writes; measured: under 0.1 s


class WandbLogger(Logger):
    """Logs for Weights & Biases: scalars, histograms, texts, hyperparameters; a curve is a table.

    Offline (the default) nothing leaves the machine: each process writes a folder ``wandb/offline-run-…-<id>`` that
    ``wandb sync`` uploads later. A resumed run has the same id and a folder of its own; what an earlier folder of the
    run already holds after the checkpoint is not written again.

    wandb writes in another process, which at a full disk only notes it in a log of its own. Offline, the file is
    therefore read back at the end of the run, and a missing value is an error.

    Args:
        project: the project.
        directory: where the folder ``wandb`` goes.
        mode: "offline", or "online", which needs an account (``wandb login``) and a connection. Online, a run goes on
            with ``resume="must"``: the server keeps the steps that it already has.
        name: the name of the run; None lets wandb choose.
        **options: see :class:`~paddle_infra.train.Logger`.

    Raises:
        InvalidInputError: the mode is unknown.
    """

    def __init__(
        self,
        project: str,
        directory: str | os.PathLike[str] = ".",
        *,
        mode: Literal["offline", "online"] = "offline",
        name: str | None = None,
        **options: Any,
    ) -> None:
        if mode not in ("offline", "online"):
            raise InvalidInputError(f"WandbLogger: mode: expected 'offline' or 'online', got {mode!r}")
        super().__init__(**options)
        self.project, self.directory, self.mode, self.name = project, Path(directory), mode, name
        self.run_id: str | None = None

    def open(self, last_step: int | None) -> None:
        """Start a run, or go on with it."""
        self._wandb = require("wandb", extra="wandb", purpose="WandbLogger")
        is_resumed = last_step is not None and self.run_id is not None
        self._known: set[tuple[str, int]] = set()
        if is_resumed:
            for path in self.directory.glob(f"wandb/offline-run-*-{self.run_id}/*.wandb"):
                self._known |= logged_names(path)[0]
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(error.errno, f"cannot write {self.directory}: {error.strerror}") from error
        self._run = self._wandb.init(
            project=self.project,
            dir=str(self.directory),
            name=self.name,
            id=self.run_id if is_resumed else None,
            resume="must" if is_resumed and self.mode == "online" else None,
            mode=self.mode,
            settings=self._wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
        )
        self.run_id = self._run.id
        self._file = Path(self._run.settings.sync_file)
        self._written: set[tuple[str, int]] = set()
        self._first_step = self._run.step if self.mode == "online" else 0

    def write_scalars(self, scalars: dict[str, float], step: int) -> None:
        """Write numbers."""
        self._write(dict(scalars), step)

    def write_hparams(self, hparams: dict[str, HParam]) -> None:
        """Write the hyperparameters into the configuration of the run."""
        self._run.config.update(hparams)

    def write_text(self, name: str, text: str, step: int) -> None:
        """Write a text as the note ``name`` in the configuration of the run (a step has numbers only)."""
        self._run.config.update({name: text}, allow_val_change=True)

    def write_histogram(self, name: str, histogram: Histogram, step: int) -> None:
        """Write the counts and the edges."""
        self._write({name: self._wandb.Histogram(np_histogram=(histogram.counts, histogram.edges))}, step)

    def write_curve(self, name: str, curve: PrecisionRecallCurve, step: int) -> None:
        """Write a table of threshold, precision and recall."""
        rows = zip(curve.thresholds.tolist(), curve.precision.tolist(), curve.recall.tolist(), strict=True)
        columns = ["threshold", "precision", "recall"]
        self._write({f"{name}_curve": self._wandb.Table(columns=columns, data=[list(r) for r in rows])}, step)

    def sync(self) -> None:
        """Do nothing: wandb decides when its own process writes."""

    def close(self) -> None:
        """End the run and, offline, check that everything is in its file.

        Raises:
            StorageError: something is missing there.
        """
        self._run.finish()
        if self.mode == "online":
            return
        found, is_ended = logged_names(self._file)
        deadline = time.monotonic() + _PATIENCE_S
        while not is_ended and time.monotonic() < deadline:  # finish() may return before the last write
            time.sleep(0.1)
            found, is_ended = logged_names(self._file)
        missing = sorted(self._written - found)
        if missing:
            raise StorageError(
                f"{self._file}: expected the {len(self._written)} values that were logged, got "
                f"{len(self._written) - len(missing)}; the first one missing is {missing[0][0]} of step "
                f"{missing[0][1]}. Is the disk full? See debug-internal.log in the folder logs beside it"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the id of the run."""
        return {"run_id": self.run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self.run_id = state["run_id"]

    def _write(self, values: dict[str, Any], step: int) -> None:
        new = {name: value for name, value in values.items() if (name, step) not in self._known}
        if new and step >= self._first_step:
            self._run.log(new, step=step)
            if self.mode == "offline":
                self._written |= {(name, step) for name in new}
