"""Read the tensors of weight files, one at a time, as NumPy arrays."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from paddle_infra._core.errors import WeightError

WEIGHT_FILE = "model.safetensors"


class Checkpoint(Protocol):
    """Named tensors in files."""

    path: Path

    def names(self) -> set[str]:
        """Return the names of all tensors."""

    def read(self, name: str) -> np.ndarray:
        """Return one tensor; bfloat16 as the float32 of the same values."""


class SafetensorsCheckpoint:
    """The tensors of an open safetensors file."""

    def __init__(self, path: Path, file: safe_open) -> None:
        self.path, self._file = path, file

    def names(self) -> set[str]:
        """Return the names of all tensors."""
        return set(self._file.keys())

    def read(self, name: str) -> np.ndarray:
        """Return one tensor; bfloat16, which NumPy has not, as the float32 of the same values."""
        if self._file.get_slice(name).get_dtype() != "BF16":
            return self._file.get_tensor(name)
        with open(self.path, "rb") as stream:
            (header_bytes,) = struct.unpack("<Q", stream.read(8))
            entry = json.loads(stream.read(header_bytes))[name]
            first, end = entry["data_offsets"]
            stream.seek(8 + header_bytes + first)
            bits = np.frombuffer(stream.read(end - first), "<u2")
        return (bits.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


@contextmanager
def open_safetensors(path: Path) -> Iterator[SafetensorsCheckpoint]:
    """Open a safetensors file.

    Raises:
        WeightError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise WeightError(f"{path}: expected a safetensors file, but there is no such file")
    try:
        with safe_open(path, framework="np") as file:
            yield SafetensorsCheckpoint(path, file)
    except SafetensorError as error:
        raise WeightError(
            f"{path}: expected a complete safetensors file, got a damaged one ({error})"
        ) from error
