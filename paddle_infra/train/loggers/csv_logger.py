"""The scalars of a run as a table that any spreadsheet opens."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from paddle_infra._core.errors import CheckpointError
from paddle_infra.train.loggers.logger import Logger
from paddle_infra.train.loggers.record_file import RecordFile


class CSVLogger(Logger):
    """Writes the scalars as comma-separated values: ``step``, then one column per name; empty where there is none.

    The training scalars of a step are one row, the metrics of a validation another. Names that are new, as at the
    first validation, add columns: the file is then written anew, at once. Floats have all their digits. A new run
    replaces the file; a resumed run first cuts it back to the step it resumes after. Curves are left out.

    Args:
        path: the file, usually ``metrics.csv``.
        **options: see :class:`~paddle_infra.train.Logger`; it has no place for texts, histograms and hyperparameters.
    """

    def __init__(self, path: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(**options)
        self.path = Path(path)

    def open(self, last_step: int | None) -> None:
        """Start the file, or cut it back.

        Raises:
            CheckpointError: the file that a resumed run should continue is not one of this class.
        """
        self._columns = ["step"]
        rows: list[dict[str, Any]] = []
        if last_step is not None and self.path.exists():
            rows = self._read(last_step)
            self._columns = list(rows[0]) if rows else self._columns
        self._file = self._written(rows)

    def write_scalars(self, scalars: dict[str, float], step: int) -> None:
        """Append a row."""
        new = [name for name in scalars if name not in self._columns]
        if new:
            rows = self._read(step)
            self._columns += new
            self._file.close()
            self._file = self._written(rows)
        self._file.append(self._line({"step": step} | {k: repr(float(v)) for k, v in scalars.items()}))

    def sync(self) -> None:
        """Bring the file to the disk."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, last_step: int) -> list[dict[str, Any]]:
        """Return the rows up to ``last_step``, without a half last line."""
        text = self.path.read_bytes().decode("utf-8")
        lines = text[: text.rfind("\n") + 1]
        rows = list(csv.DictReader(io.StringIO(lines, newline="")))
        if lines and not lines.startswith("step"):
            raise CheckpointError(
                f"{self.path}: expected a table whose first column is 'step', got {lines.split(',')[0]!r}"
            )
        return [row for row in rows if int(row["step"]) <= last_step]

    def _written(self, rows: list[dict[str, Any]]) -> RecordFile:
        header = self._line({name: name for name in self._columns})
        return RecordFile(self.path, [header, *map(self._line, rows)])

    def _line(self, row: dict[str, Any]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerow([row.get(name, "") for name in self._columns])
        return text.getvalue().encode()
