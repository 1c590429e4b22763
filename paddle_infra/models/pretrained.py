"""Load and save weights of the BERT family as safetensors, in the field's names and layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from paddle import nn
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from paddle_infra._core.atomic import atomic_file
from paddle_infra._core.errors import WeightError
from paddle_infra.models.bert_names import IGNORED, checkpoint_name, is_transposed

WEIGHT_FILE = "model.safetensors"
_PREFIX = "bert."


@dataclass(frozen=True)
class LoadReport:
    """What a weight file gave a model. Names are the checkpoint's."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # the model has them, the file does not: left at their initial values
    unexpected: tuple[str, ...]  # the file has them, the model does not: not used


@contextmanager
def _open(path: Path) -> Iterator[safe_open]:
    if not path.is_file():
        raise WeightError(f"{path}: expected a safetensors file, but there is no such file")
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        raise WeightError(
            f"{path}: expected a complete safetensors file, got a damaged one ({error})"
        ) from error


def load_weights(model: nn.Layer, directory: str | Path, *, optional: tuple[str, ...] = ()) -> LoadReport:
    """Copy the weights in ``directory/model.safetensors`` into ``model``.

    Everything is read and checked first; on any error the model is unchanged. A checkpoint of the bare encoder
    (names without ``bert.``) and one of a fine-tuned model both fit. If the model has more token types than the file,
    the new ones start as copies of type 0, so that the encoder is at first the same for every type.

    Args:
        model: a layer whose parameter names :mod:`paddle_infra.models.bert_names` knows.
        directory: folder with ``model.safetensors``.
        optional: prefixes of checkpoint names that may be missing, for instance ``"classifier."``.

    Raises:
        WeightError: the file is missing or damaged, lacks a parameter, or one has another shape or dtype.
    """
    path = Path(directory) / WEIGHT_FILE
    parameters = dict(model.named_parameters())
    values: dict[str, np.ndarray] = {}
    missing = []
    with _open(path) as file:
        stored = set(file.keys())
        used = set()
        for name, parameter in parameters.items():
            wanted = checkpoint_name(name)
            key = wanted if wanted in stored else wanted.removeprefix(_PREFIX)
            if key not in stored:
                missing.append(wanted)
                continue
            used.add(key)
            values[name] = _fitted(file.get_tensor(key), parameter.shape, name, key, path)
    lacking = [name for name in missing if not name.startswith(optional)] if optional else missing
    if lacking:
        raise WeightError(
            f"{path}: expected {len(parameters)} parameters, {len(lacking)} are missing: {_some(lacking)}; "
            f"the file holds {_some(sorted(stored))}"
        )
    for name, value in values.items():
        parameters[name].set_value(value)
    unexpected = sorted(name for name in stored - used if not IGNORED.search(name))
    return LoadReport(tuple(sorted(used)), tuple(missing), tuple(unexpected))


def _fitted(value: np.ndarray, shape: list[int], name: str, key: str, path: Path) -> np.ndarray:
    if value.dtype not in (np.float32, np.float16, np.float64):
        raise WeightError(f"{path}: {key}: expected a floating-point dtype, got {value.dtype}")
    value = value.T if is_transposed(name) else value
    if (
        name.endswith("token_type.weight")
        and 0 < value.shape[0] < shape[0]
        and value.shape[1:] == tuple(shape[1:])
    ):
        value = np.concatenate([value, np.repeat(value[:1], shape[0] - value.shape[0], axis=0)])
    if list(value.shape) != list(shape):
        raise WeightError(
            f"{path}: {key}: expected shape {list(shape)} (Paddle layout), got {list(value.shape)}"
        )
    if not np.isfinite(value).all():
        raise WeightError(f"{path}: {key}: expected finite values, got NaN or infinity")
    return np.ascontiguousarray(value, dtype=np.float32)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", … ({len(names)} in all)" if len(names) > 5 else "")


def save_weights(model: nn.Layer, directory: str | Path) -> Path:
    """Write ``directory/model.safetensors`` in the field's names and layout, atomically; return its path."""
    path = Path(directory) / WEIGHT_FILE
    tensors = {}
    for name, parameter in model.named_parameters():
        value = parameter.numpy()
        tensors[checkpoint_name(name)] = np.ascontiguousarray(value.T if is_transposed(name) else value)
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    return path
