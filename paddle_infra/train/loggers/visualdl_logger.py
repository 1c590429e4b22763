"""The log of a run for VisualDL (``visualdl --logdir DIR``)."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paddle_infra._core.extras import require
from paddle_infra.train.loggers.histogram import Histogram
from paddle_infra.train.loggers.logger import HParam, Logger
from paddle_infra.train.loggers.record_file import RecordFile
from paddle_infra.train.metrics.curves import PrecisionRecallCurve

_LENGTH = struct.Struct("<Q")  # every record has its length before it


class VisualDLLogger(Logger):
    """Logs for VisualDL: scalars, histograms, texts, hyperparameters and precision-recall curves.

    VisualDL shows only the newest file of a folder; a resumed run therefore starts its file with what the previous
    one holds up to the resumed step.

    The curves are written from counts: VisualDL's own ``add_pr_curve`` uses ``numpy.float``, which NumPy 1.24
    removed.

    Args:
        directory: the log folder of this run.
        **options: see :class:`~paddle_infra.train.Logger`.
    """

    def __init__(self, directory: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(**options)
        self.directory = Path(directory)

    def open(self, last_step: int | None) -> None:
        """Start a new log file."""
        require("visualdl", extra="visualdl", purpose="VisualDLLogger")
        from visualdl.component import base_component

        self._component = base_component
        earlier = [] if last_step is None else list(_records(self.directory, last_step))
        path = self.directory / f"vdlrecords.{time.time_ns()}.log"  # sorts after every earlier one
        self._file = RecordFile(path, earlier or [_framed(base_component.meta_data(walltime=_now()))])

    def write_scalars(self, scalars: dict[str, float], step: int) -> None:
        """Write one record per number."""
        for name, value in scalars.items():
            self._append(self._component.scalar(name, value, step, _now()))

    def write_hparams(self, hparams: dict[str, HParam]) -> None:
        """Write the hyperparameters, to be compared with the loss; VisualDL has no booleans, they become text."""
        name = hashlib.sha256(str(self._file.path).encode()).hexdigest()[:32]
        values = {key: str(value) if isinstance(value, bool) else value for key, value in hparams.items()}
        self._append(self._component.hparam(name, values, ["train/loss"], _now()))

    def write_text(self, name: str, text: str, step: int) -> None:
        """Write a text."""
        self._append(self._component.text(name, text, step, _now()))

    def write_histogram(self, name: str, histogram: Histogram, step: int) -> None:
        """Write the counts and the edges."""
        self._append(self._component.histogram(name, histogram.counts, histogram.edges, step, _now()))

    def write_curve(self, name: str, curve: PrecisionRecallCurve, step: int) -> None:
        """Write the counts at each threshold."""
        record = self._component.pr_curve_raw(
            name,
            curve.true_positives,
            curve.false_positives,
            curve.true_negatives,
            curve.false_negatives,
            curve.precision,
            curve.recall,
            step,
            _now(),
        )
        self._append(record)

    def sync(self) -> None:
        """Bring the file to the disk."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, record: Any) -> None:
        self._file.append(_framed(record))


def _now() -> int:
    return round(time.time() * 1000)


def _framed(record: Any) -> bytes:
    content: bytes = record.SerializeToString()
    return _LENGTH.pack(len(content)) + content


def _records(directory: Path, last_step: int) -> Iterator[bytes]:
    """Yield the records of the newest log in ``directory`` up to ``last_step``."""
    from visualdl.proto.record_pb2 import Record

    files = sorted(directory.glob("*vdlrecords*"))
    content = files[-1].read_bytes() if files else b""
    start = 0
    while start + _LENGTH.size <= len(content):
        end = start + _LENGTH.size + _LENGTH.unpack_from(content, start)[0]
        if end > len(content):  # the half record at the end of a killed run
            return
        record = Record.FromString(content[start + _LENGTH.size : end])
        if all(value.id <= last_step for value in record.values):
            yield content[start:end]
        start = end
