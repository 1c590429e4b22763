"""Read PaddleNLP's ``*.pdparams``, without running any code that a file may hold."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from paddle_infra._core.errors import WeightError
from paddle_infra.models.families import FAMILIES, Family

LEGACY_CONFIG_FILE = "model_config.json"
_NAME_TABLE = "StructuredToParameterName@@"
_PARTS = "UnpackBigParamInfor@@"
# All that paddle.save writes beside dictionaries, lists, strings, numbers and bytes. Nothing here has an effect.
_ALLOWED = frozenset(
    {
        ("_codecs", "encode"),
        ("collections", "OrderedDict"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.numeric", "_frombuffer"),
    }
)
_LAYER = re.compile(r"(.*)encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_LAYER_PARTS = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.output",
    "norm1": "attention_norm",
    "linear1": "intermediate",
    "linear2": "output",
    "norm2": "output_norm",
}
_RENAMED = (
    (r"embeddings\.layer_norm\.", "embeddings.LayerNorm."),
    (r"cls\.predictions\.transform\.", "cls.predictions.transform.dense."),
    (r"cls\.predictions\.layer_norm\.", "cls.predictions.transform.LayerNorm."),
    (r"cls\.predictions\.decoder_(weight|bias)$", r"cls.predictions.decoder.\1"),
    (r"cls\.predictions\.decoder\.bias$", "cls.predictions.bias"),
    (r"lm_head\.decoder\.bias$", "lm_head.bias"),
)


class PaddleCheckpoint:
    """The arrays of a ``.pdparams`` in the field's names and layout."""

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        self.path, self._arrays = path, arrays

    def names(self) -> set[str]:
        """Return the names of all arrays."""
        return set(self._arrays)

    def read(self, name: str) -> np.ndarray:
        """Return one array; bfloat16, which Paddle stores as uint16, as the float32 of the same values."""
        value = self._arrays[name]
        if value.dtype == np.uint16:
            return (value.astype(np.uint32) << 16).view(np.float32)
        return value


def modern_config(legacy: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the content of a ``config.json`` for that of a ``model_config.json``: the arguments of nested classes.

    Raises:
        WeightError: it does not say which class, or one of no known family.
    """
    values: dict[str, Any] = {"type_vocab_size": 16}  # PaddleNLP's default then
    nested = legacy.get("init_args") or ()
    for arguments in (*nested, legacy):
        if isinstance(arguments, Mapping):
            values |= arguments
    name = str(values.pop("init_class", ""))
    values.pop("init_args", None)
    families = [kind for kind, family in FAMILIES.items() if name.startswith(family.class_prefix)]
    if not families:
        known = ", ".join(family.class_prefix for family in FAMILIES.values())
        raise WeightError(f"{where}: expected init_class of {known}, got {name!r}")
    return values | {"model_type": families[0], "architectures": [name]}


def find_paddle_weights(folder: Path) -> Path | None:
    """Return ``model_state.pdparams``, or the only ``*.pdparams`` in a folder; None if there is none.

    Raises:
        WeightError: there are several of other names.
    """
    files = sorted(folder.glob("*.pdparams"))
    if (usual := folder / "model_state.pdparams") in files:
        return usual
    if len(files) > 1:
        raise WeightError(f"{folder}: expected one *.pdparams, got {[path.name for path in files]}")
    return files[0] if files else None


@contextmanager
def open_paddle(path: Path, family: Family, heads: Mapping[str, str]) -> Iterator[PaddleCheckpoint]:
    """Open PaddleNLP's weights of a family.

    Args:
        path: a ``.pdparams``.
        family: whose names the result shall have.
        heads: other names for layers of the head: PaddleNLP's, ours.

    Raises:
        WeightError: the file is damaged, or holds something other than arrays by name.
    """
    arrays = {}
    for name, value in _read(path).items():
        field_name = _field_name(name, family, heads)
        is_linear = value.ndim == 2 and not re.search(r"embeddings\.|\.decoder", field_name)
        arrays[field_name] = value.T if is_linear else value
    yield PaddleCheckpoint(path, arrays)


def _field_name(name: str, family: Family, heads: Mapping[str, str]) -> str:
    if match := _LAYER.fullmatch(name):
        prefix, index, part, kind = match.groups()
        if part in _LAYER_PARTS:
            return f"{prefix}{family.stack}.{index}.{family.layer[_LAYER_PARTS[part]]}.{kind}"
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    layer, dot, rest = name.partition(".")
    return f"{heads.get(layer, layer)}{dot}{rest}"


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows arrays and plain containers, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few things that arrays are made of."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"expected arrays only, got {module}.{name}")
        return super().find_class(module, name)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            raw = _ArraysOnly(file).load()
    # Whatever else a damaged pickle makes of the unpickler: all of it is about the file.
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError,
            OverflowError, MemoryError) as error:  # fmt: skip
        raise WeightError(f"{path}: expected weights as paddle.save writes them: {error}") from error
    if not isinstance(raw, (dict, OrderedDict)):
        raise WeightError(f"{path}: expected arrays by name, got {type(raw).__name__}")
    raw = dict(raw)
    raw.pop(_NAME_TABLE, None)
    try:
        for name, parts in raw.pop(_PARTS, {}).items():  # arrays that were too large for one pickled object
            slices = [raw.pop(part) for part in parts["slices"]]
            raw[name] = np.concatenate(slices).reshape(parts["OriginShape"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WeightError(f"{path}: expected all slices of large arrays: {error!r}") from error
    arrays = {name: value[1] if _is_named(value) else value for name, value in raw.items()}
    for name, value in arrays.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise WeightError(f"{path}: expected arrays by name, got {type(value).__name__} for {name!r}")
    return arrays


def _is_named(value: Any) -> bool:
    """Whether a value is a pair of a tensor's own name and its array, as some versions of Paddle write it."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray)
