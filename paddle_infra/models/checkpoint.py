"""Read the tensors of weight files, one at a time, as NumPy arrays."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from paddle_infra._core.errors import WeightError

WEIGHT_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


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


class ShardedCheckpoint:
    """The tensors of several open safetensors files."""

    def __init__(self, path: Path, shards: dict[str, SafetensorsCheckpoint]) -> None:
        self.path, self._shards = path, shards  # by the name of the tensor

    def names(self) -> set[str]:
        """Return the names of all tensors."""
        return set(self._shards)

    def read(self, name: str) -> np.ndarray:
        """Return one tensor; see :meth:`SafetensorsCheckpoint.read`."""
        return self._shards[name].read(name)


@contextmanager
def open_weights(folder: Path) -> Iterator[Checkpoint]:
    """Open ``model.safetensors`` in a folder, or the files that ``model.safetensors.index.json`` lists.

    Raises:
        WeightError: there is neither, or a file is damaged or missing, or the index does not tell what is in them.
    """
    index = folder / INDEX_FILE
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if not (folder / WEIGHT_FILE).exists() and index.is_file():
        with ExitStack() as stack:
            yield _open_shards(index, stack)
        return
    if not (folder / WEIGHT_FILE).exists() and pickled:
        raise WeightError(
            f"{folder}: expected {WEIGHT_FILE}, got {pickled[0]}: a pickle, which can run any code when it is read. "
            "Save the model as safetensors with the library that wrote it (save_pretrained) and load that"
        )
    with open_safetensors(folder / WEIGHT_FILE) as file:
        yield file


def _open_shards(index: Path, stack: ExitStack) -> ShardedCheckpoint:
    try:
        raw: Any = json.loads(index.read_text(encoding="utf-8"))
        listed = {str(name): str(file) for name, file in raw["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightError(
            f"{index}: expected a JSON object with weight_map, got a damaged one ({error!r})"
        ) from error
    if outside := [file for file in listed.values() if Path(file).name != file]:
        raise WeightError(f"{index}: expected names of files beside it, got {outside[0]!r}")
    shards = {
        file: stack.enter_context(open_safetensors(index.parent / file)) for file in set(listed.values())
    }
    for file, shard in shards.items():
        names = {name for name, place in listed.items() if place == file}
        if difference := sorted(names ^ shard.names()):
            raise WeightError(
                f"{index}: expected it to list what is in {file}, but they differ in {difference[:5]}"
            )
    return ShardedCheckpoint(index, {name: shards[file] for name, file in listed.items()})
