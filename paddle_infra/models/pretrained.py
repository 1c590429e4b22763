"""Load weights into models and save them as safetensors, checked before anything changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import paddle
from paddle import Tensor
from safetensors.numpy import save_file

from paddle_infra._core.atomic import atomic_file
from paddle_infra._core.checks import dtype_name
from paddle_infra._core.errors import WeightError
from paddle_infra.models.checkpoint import WEIGHT_FILE, Checkpoint

if TYPE_CHECKING:
    from paddle_infra.models.base import PretrainedModel


@dataclass(frozen=True)
class LoadReport:
    """What a weight file gave a model. Names are the checkpoint's."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # the model has them, the file does not: left at their initial values
    unexpected: tuple[str, ...]  # the file has them, the model does not: not used


def load_weights(
    model: PretrainedModel, directory: str | Path, *, optional: tuple[str, ...] = ()
) -> LoadReport:
    """Copy the weights in ``directory`` into ``model``.

    Everything is read and checked first; on any error the model is unchanged. Floating-point values are converted to
    the dtype that the model has; integers must agree.

    Args:
        model: what to fill: its parameters and persistable buffers.
        directory: folder with ``model.safetensors``, or whatever else the model can open.
        optional: beginnings of checkpoint names that may be missing, for instance ``"classifier."``.

    Raises:
        WeightError: the file is missing or damaged, lacks a parameter, has one that the model has not (unless the
            model ignores these), or one has another shape or dtype or is not finite.
    """
    targets = stored_tensors(model)
    values: dict[str, np.ndarray] = {}
    missing = []
    with model.open_checkpoint(directory) as file:
        stored = file.names()
        used = set()
        for name, target in targets.items():
            accepted = _names(model, name)
            key = next((key for key in accepted if key in stored), None)
            if key is None:
                missing.append(accepted[0])
                continue
            used.add(key)
            values[name] = _fitted(model, file, name, key, target)
    lacking = [name for name in missing if not (optional and name.startswith(optional))]
    if lacking:
        raise WeightError(
            f"{file.path}: expected {len(targets)} parameters, {len(lacking)} are missing: {_some(lacking)}; "
            f"the file holds {_some(sorted(stored))}"
        )
    unexpected = sorted(name for name in stored - used if not model.is_ignored(name))
    if unexpected and not model.ignores_unexpected:
        raise WeightError(
            f"{file.path}: expected only the {len(targets)} parameters of {type(model).__name__}, "
            f"got also {_some(unexpected)}"
        )
    for name, value in values.items():
        target = targets[name]
        target.set_value(paddle.to_tensor(value).astype(target.dtype))  # NumPy has no bfloat16
    return LoadReport(tuple(sorted(used)), tuple(missing), tuple(unexpected))


def save_weights(model: PretrainedModel, directory: str | Path) -> Path:
    """Write ``directory/model.safetensors`` in the model's names and layout, atomically; return its path.

    bfloat16 is written as the float32 of the same values.
    """
    path = Path(directory) / WEIGHT_FILE
    tensors = {}
    for name, tensor in stored_tensors(model).items():
        value = (tensor.astype("float32") if dtype_name(tensor) == "bfloat16" else tensor).numpy()
        value = value.T if model.is_transposed(name) else value
        tensors[_names(model, name)[0]] = np.ascontiguousarray(value).reshape(value.shape)
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    return path


def stored_tensors(model: PretrainedModel) -> dict[str, Tensor]:
    """Return the parameters and persistable buffers by name; a tensor that has several names under its first."""
    unique: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        unique.setdefault(id(tensor), (name, tensor))
    return dict(unique.values())


def _names(model: PretrainedModel, name: str) -> tuple[str, ...]:
    try:
        return model.checkpoint_names(name)
    except KeyError:
        raise WeightError(
            f"{type(model).__name__}: expected only parameters with a name in checkpoints, got {name!r}"
        ) from None


def _fitted(model: PretrainedModel, file: Checkpoint, name: str, key: str, target: Tensor) -> np.ndarray:
    value, where = file.read(key), f"{file.path}: {key}"
    wanted = dtype_name(target)
    is_float = wanted in ("float16", "bfloat16", "float32", "float64")
    if is_float and value.dtype not in (np.float32, np.float16, np.float64):
        raise WeightError(f"{where}: expected a floating-point dtype, got {value.dtype}")
    if not is_float and value.dtype.name != wanted:
        raise WeightError(f"{where}: expected dtype {wanted}, got {value.dtype}")
    shape = list(target.shape)
    value = model.adapted(name, value.T if model.is_transposed(name) else value, shape)
    if list(value.shape) != shape:
        raise WeightError(f"{where}: expected shape {shape} (Paddle layout), got {list(value.shape)}")
    with np.errstate(over="ignore"):  # too large for float16: infinite, and refused below
        value = value.astype("float32" if wanted == "bfloat16" else wanted, copy=False)
    if is_float and not np.isfinite(value).all():
        raise WeightError(f"{where}: expected finite values, got NaN or infinity")
    return value


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", … ({len(names)} in all)" if len(names) > 5 else "")
