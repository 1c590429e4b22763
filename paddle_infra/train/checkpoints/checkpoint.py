"""Checkpoint folders on disk: written whole or not at all, every file checksummed, no pickle.

A checkpoint is a folder ``step-00000042`` with

* ``model.safetensors``: parameters and buffers by structured name;
* ``optimizer.safetensors``: accumulators as ``<structured parameter name>/<accumulator>``;
* ``callbacks.safetensors``: tensors of callbacks (moving averages) as ``<callback>/<name>``;
* ``state.json``: training state, schedule, random generators, callbacks;
* ``manifest.json``: size and SHA-256 of the other files.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.atomic import atomic_directory, sha256_of
from paddle_infra._core.errors import CheckpointError

FORMAT = 2
_WEIGHTS, _OPTIMIZER, _CALLBACKS, _STATE, _MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "callbacks.safetensors",
    "state.json",
    "manifest.json",
)
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class CheckpointData:
    """The content of a checkpoint.

    Attributes:
        weights: tensors of ``model.state_dict()``.
        optimizer: accumulators by ``<structured parameter name>/<accumulator>``.
        callbacks: tensors by ``<callback>/<name>``.
        state: everything else, as JSON values.
    """

    weights: dict[str, paddle.Tensor]
    optimizer: dict[str, paddle.Tensor]
    callbacks: dict[str, paddle.Tensor]
    state: dict[str, Any]

    def copy(self) -> CheckpointData:
        """Return a copy that training does not change."""
        weights, optimizer, callbacks = (
            {name: tensor.detach().clone() for name, tensor in tensors.items()}
            for tensors in (self.weights, self.optimizer, self.callbacks)
        )
        return CheckpointData(weights, optimizer, callbacks, copy.deepcopy(self.state))


def checkpoint_name(step: int) -> str:
    """Return the folder name for a step, e.g. ``step-00000042``."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's folder name.

    Raises:
        CheckpointError: the folder has another kind of name.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path}: expected a folder named like {checkpoint_name(42)!r}")
    return int(match[1])


def write_checkpoint(path: str | os.PathLike[str], data: CheckpointData) -> None:
    """Write a checkpoint folder atomically.

    Raises:
        StorageError: it could not be written completely (full disk, no permission); nothing is left behind.
        CheckpointError: ``data.state`` holds something that is not JSON.
    """
    contents = {
        _WEIGHTS: _to_safetensors(data.weights),
        _OPTIMIZER: _to_safetensors(data.optimizer),
        _CALLBACKS: _to_safetensors(data.callbacks),
        _STATE: _to_json(data.state),
    }
    # The checksums are taken from memory: a disk that drops bytes cannot vouch for itself.
    files = {
        name: {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    manifest = {"format": FORMAT, "paddle": paddle.__version__, "files": files}
    with atomic_directory(path) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def verify_checkpoint(path: str | os.PathLike[str]) -> None:
    """Check that every file of a checkpoint is there and has the size and checksum of the manifest.

    Raises:
        CheckpointError: naming the file, what was expected and what was found.
    """
    folder = Path(path)
    for name, expected in _read_manifest(folder).items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"checkpoint {folder}: expected the file {name}, found none")
        size, digest = file.stat().st_size, sha256_of(file)
        if size != expected["size_bytes"] or digest != expected["sha256"]:
            raise CheckpointError(
                f"checkpoint {folder}: {name} is damaged: expected {expected['size_bytes']} bytes with "
                f"SHA-256 {expected['sha256']}, got {size} bytes with SHA-256 {digest}"
            )


def read_checkpoint(path: str | os.PathLike[str]) -> CheckpointData:
    """Verify a checkpoint, then read it.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, or of another format.
    """
    folder = Path(path)
    verify_checkpoint(folder)
    state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    weights, optimizer, callbacks = (
        _read_safetensors(folder / name) for name in (_WEIGHTS, _OPTIMIZER, _CALLBACKS)
    )
    return CheckpointData(weights, optimizer, callbacks, state)


def checkpoints_in(directory: str | os.PathLike[str]) -> list[Path]:
    """Return the checkpoint folders in ``directory`` by step, the newest last. Nothing is verified."""
    found = [path for path in Path(directory).glob("step-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def newest_intact(directory: str | os.PathLike[str]) -> Path:
    """Return the newest checkpoint whose checksums are right, with a warning for each newer one skipped.

    Raises:
        CheckpointError: there is none; the message lists what is wrong with each.
    """
    problems: list[str] = []
    for path in reversed(checkpoints_in(directory)):
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"skipped a damaged checkpoint, using {path} instead: {problem}", stacklevel=2)
        return path
    found = "; ".join(problems) if problems else "found none"
    raise CheckpointError(f"{directory}: expected an intact checkpoint, {found}")


def load_model(path: str | os.PathLike[str], model: paddle.nn.Layer, *, average: str | None = None) -> None:
    """Load only the weights of a checkpoint into ``model``.

    Args:
        path: the checkpoint.
        model: a model of the same structure.
        average: name of a callback that keeps averaged weights, "EMA" or "SWA" ("EMA#2" for the second of a kind):
            its average replaces the weights that it averages. BatchNorm's statistics in "SWA" are those of the last
            evaluation: see :func:`~paddle_infra.train.refresh_batch_norm`.

    Raises:
        CheckpointError: the checkpoint is damaged, holds no such average or does not fit the model, which is then
            unchanged.
    """
    folder = Path(path)
    verify_checkpoint(folder)
    weights = _read_safetensors(folder / _WEIGHTS)
    if average is not None:
        tensors = _read_safetensors(folder / _CALLBACKS)
        prefix = f"{average}/"
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        if not own:
            found = sorted({name.split("/", 1)[0] for name in tensors})
            raise CheckpointError(
                f"checkpoint {folder}: expected averaged weights {average!r}, found {found}"
            )
        weights |= own
    for target, value in match_weights(model, weights):
        target.set_value(value)


def match_weights(
    model: paddle.nn.Layer, weights: dict[str, paddle.Tensor]
) -> list[tuple[paddle.Tensor, paddle.Tensor]]:
    """Pair every tensor of the model with its value, changing nothing.

    Raises:
        CheckpointError: names, shapes or dtypes differ; every difference is listed.
    """
    targets = model.state_dict()
    problems = [f"missing in the checkpoint: {name}" for name in targets if name not in weights]
    problems += [f"unknown to the model: {name}" for name in weights if name not in targets]
    for name in sorted(targets.keys() & weights.keys()):
        expected, got = targets[name], weights[name]
        if list(expected.shape) != list(got.shape) or expected.dtype != got.dtype:
            problems.append(f"{name}: expected {_describe(expected)}, got {_describe(got)}")
    if problems:
        raise CheckpointError("the checkpoint does not fit the model: " + "; ".join(problems))
    return [(targets[name], weights[name]) for name in targets]


def _describe(tensor: paddle.Tensor) -> str:
    return f"{str(tensor.dtype).split('.')[-1]}{list(tensor.shape)}"


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / _MANIFEST
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint {folder}: expected a folder, found none")
    if not file.is_file():
        raise CheckpointError(f"checkpoint {folder}: expected the file {_MANIFEST}, found none")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version, files = manifest["format"], dict(manifest["files"])
        for name in (_WEIGHTS, _OPTIMIZER, _CALLBACKS, _STATE):
            int(files[name]["size_bytes"]), str(files[name]["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint {folder}: {_MANIFEST} is damaged: expected sizes and checksums, got {error!r}"
        ) from error
    if version != FORMAT:
        raise CheckpointError(f"checkpoint {folder}: expected format {FORMAT}, got {version}")
    return files


def _to_safetensors(tensors: dict[str, paddle.Tensor]) -> bytes:
    # safetensors' own save_file reports no error for a device that takes no data and replaces its target:
    # bytes are made here and written by the caller.
    from safetensors.paddle import save

    return save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})


def _read_safetensors(path: Path) -> dict[str, paddle.Tensor]:
    from safetensors.paddle import load

    return dict(load(path.read_bytes()))


def _to_json(state: dict[str, Any]) -> bytes:
    def as_plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"got {type(value).__name__} {value!r}")

    try:
        return json.dumps(state, default=as_plain, separators=(",", ":")).encode()
    except TypeError as error:
        raise CheckpointError(f"state of the run: expected plain JSON values, {error}") from error
