"""The log of a run for TensorBoard (``tensorboard --logdir DIR``)."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from paddle_infra._core.extras import require
from paddle_infra.train.loggers.histogram import Histogram
from paddle_infra.train.loggers.logger import HParam, Logger
from paddle_infra.train.loggers.record_file import RecordFile
from paddle_infra.train.metrics.curves import PrecisionRecallCurve

FILE_NAME = "events.out.tfevents.paddle_infra"
_LENGTH, _CRC = struct.Struct("<Q"), struct.Struct("<I")
_MOST_THRESHOLDS = 127  # more would need a two-byte length in the plugin's data, which TensorBoard misreads


class TensorBoardLogger(Logger):
    """Logs for TensorBoard: scalars, histograms, texts, hyperparameters and precision-recall curves.

    The log is one file. A new run replaces it; a resumed run first cuts it back to the step it resumes after. Events
    are made with the messages of tensorboardX.

    Args:
        directory: the log folder of this run.
        **options: see :class:`~paddle_infra.train.Logger`.
    """

    def __init__(self, directory: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(**options)
        self.directory = Path(directory)

    def open(self, last_step: int | None) -> None:
        """Start the file, or cut it back."""
        require("tensorboardX", extra="tensorboard", purpose="TensorBoardLogger")
        from tensorboardX import summary

        self._summary = summary
        path = self.directory / FILE_NAME
        earlier = [] if last_step is None else list(_events(path, last_step))
        self._file = RecordFile(path, earlier or [_framed(file_version="brain.Event:2")])

    def write_scalars(self, scalars: dict[str, float], step: int) -> None:
        """Write one event with all numbers."""
        merged = self._summary.Summary()
        for name, value in scalars.items():
            merged.MergeFrom(self._summary.scalar(name, value))
        self._append(merged, step)

    def write_hparams(self, hparams: dict[str, HParam]) -> None:
        """Write the hyperparameters, to be compared with the loss."""
        for part in self._summary.hparams(hparams, {"train/loss": 0.0}):
            self._append(part, 0)

    def write_text(self, name: str, text: str, step: int) -> None:
        """Write a text (shown as Markdown)."""
        self._append(self._summary.text(name, text), step)

    def write_histogram(self, name: str, histogram: Histogram, step: int) -> None:
        """Write the counts and the upper ends of the bins."""
        message = self._summary.histogram_raw(
            name,
            min=histogram.edges[0],
            max=histogram.edges[-1],
            num=histogram.size,
            sum=histogram.sum,
            sum_squares=histogram.sum_squares,
            bucket_limits=histogram.edges[1:].tolist(),
            bucket_counts=histogram.counts.tolist(),
        )
        self._append(message, step)

    def write_curve(self, name: str, curve: PrecisionRecallCurve, step: int) -> None:
        """Write the counts at no more than 127 thresholds."""
        total = len(curve.thresholds)
        chosen = np.linspace(0, total - 1, min(total, _MOST_THRESHOLDS)).round().astype(np.int64)
        rows = (
            curve.true_positives,
            curve.false_positives,
            curve.true_negatives,
            curve.false_negatives,
            curve.precision,
            curve.recall,
        )
        columns = [row[chosen] for row in rows]
        self._append(self._summary.pr_curve_raw(name, *columns, num_thresholds=len(chosen)), step)

    def sync(self) -> None:
        """Bring the file to the disk."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, summary: Any, step: int) -> None:
        self._file.append(_framed(summary=summary, step=step))


def _framed(**fields: Any) -> bytes:
    """Return an event as a TFRecord: length, its checksum, content, its checksum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content: bytes = Event(wall_time=time.time(), **fields).SerializeToString()
    length = _LENGTH.pack(len(content))
    return length + _CRC.pack(masked_crc32c(length)) + content + _CRC.pack(masked_crc32c(content))


def _events(path: Path, last_step: int) -> Iterator[bytes]:
    """Yield the framed events of a file up to ``last_step``; nothing if there is no file."""
    from tensorboardX.proto.event_pb2 import Event

    content = path.read_bytes() if path.exists() else b""
    start, before = 0, _LENGTH.size + _CRC.size
    while start + before <= len(content):
        end = start + before + _LENGTH.unpack_from(content, start)[0] + _CRC.size
        if end > len(content):  # the half event at the end of a killed run
            return
        if Event.FromString(content[start + before : end - _CRC.size]).step <= last_step:
            yield content[start:end]
        start = end
