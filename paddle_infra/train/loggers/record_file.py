"""A log file that only grows, and that a resumed run first cuts back to where its checkpoint was."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from paddle_infra._core.atomic import atomic_file
from paddle_infra._core.errors import StorageError


class RecordFile:
    """An open log file. A record is in it completely or not at all.

    The writers that come with VisualDL and tensorboardX hand records to a thread, which at a full disk prints a
    warning and drops them, or dies and lets the run hang. This one writes in the caller's thread.

    Args:
        path: the file; replaced at once by one that holds ``kept``.
        kept: the records to begin with.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path, kept: Iterable[bytes] = ()) -> None:
        self.path = path
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            file.writelines(kept)
        self._file: IO[bytes] = path.open("ab", buffering=0)
        self._size_bytes = path.stat().st_size

    def append(self, record: bytes) -> None:
        """Write one record; it can be read by others at once.

        Raises:
            StorageError: it could not be written; the file ends with the record before.
        """
        try:
            written = 0
            while written < len(record):  # an unbuffered write may stop short of a full disk
                written += self._file.write(record[written:])
        except OSError as error:
            os.truncate(self.path, self._size_bytes)
            raise StorageError(error.errno, f"cannot write {self.path}: {error.strerror}") from error
        self._size_bytes += len(record)

    def sync(self) -> None:
        """Bring the file to the disk.

        Raises:
            StorageError: that failed.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(error.errno, f"cannot write {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()
