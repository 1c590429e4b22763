"""Compressed models in a folder: what was changed, and the weights, int4 packed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from paddle_infra import nn
from paddle_infra._core.atomic import atomic_directory, sha256_of, write_json
from paddle_infra._core.checks import dtype_name
from paddle_infra._core.errors import InvalidInputError, UnsupportedError, WeightError
from paddle_infra.compress.config import update_config
from paddle_infra.compress.quantize import QuantizedLinear
from paddle_infra.compress.quantized_linear import Int4Linear, Int8Linear, spread
from paddle_infra.compress.sublayers import Layer, check_model, replace_layers, set_parameter, target_of

STRUCTURE_FILE, WEIGHT_FILE = "compression.json", "weights.safetensors"
_FORMAT = "paddle_infra.compress/1"
_PACKED = ".weight_int4"  # of a layer: two codes in a byte, instead of weight_int8 or weight


def save_compressed(model: Layer, path: str | os.PathLike[str]) -> None:
    """Write a compressed model into a folder of its own: what ``config.json`` and ``save_pretrained`` cannot tell.

    ``compression.json`` holds the numbers of layers and heads, the shapes and the quantized layers;
    ``weights.safetensors`` the state under the model's own names, in Paddle's layout. Of 4-bit layers it holds
    ``<name>.weight_int4``, uint8 ``[⌈K / 2⌉, N]``: the codes plus 8, of input ``2i`` in the low four bits and of
    ``2i + 1`` in the high ones.

    Raises:
        InvalidInputError: ``path`` holds something else, or a 4-bit weight was changed since.
        UnsupportedError: a tensor is neither float32 nor an integer.
        StorageError: a file cannot be written.
    """
    check_model(model)
    target = Path(os.path.abspath(path))
    if target.exists() and (
        not target.is_dir() or {entry.name for entry in target.iterdir()} - {STRUCTURE_FILE, WEIGHT_FILE}
    ):
        raise InvalidInputError(f"{target}: expected a new or empty folder or an earlier compressed model")
    structure, tensors = _structure(model), _tensors(model)
    with atomic_directory(target) as folder:
        save_file(tensors, folder / WEIGHT_FILE)
        write_json(
            folder / STRUCTURE_FILE,
            {"format": _FORMAT, **structure, "sha256": sha256_of(folder / WEIGHT_FILE)},
        )


def load_compressed(model: Layer, path: str | os.PathLike[str], *, in_place: bool = False) -> Layer:
    """Return what :func:`save_compressed` wrote, given a model of the class and sizes before compression.

    Args:
        model: such a model, for instance ``BertForSequenceClassification(config)``; its weights do not matter. It
            has all layers that the compressed one has, not yet quantized.
        path: the folder.
        in_place: change ``model`` itself; a failure may leave it changed. Otherwise a copy is changed.

    Raises:
        WeightError: files are missing, damaged, or do not fit the model.
    """
    folder = Path(path)
    structure = _read_structure(folder)
    try:
        tensors = load_file(folder / WEIGHT_FILE)
    except (SafetensorError, ValueError) as error:
        raise WeightError(
            f"{folder / WEIGHT_FILE}: expected complete safetensors, got damaged ones ({error})"
        ) from error
    target = target_of(model, in_place=in_place)
    for name, kept in structure["stacks"].items():
        stack = _sublayer(target, name, nn.TransformerEncoder, folder)
        if kept > len(stack.layers):
            raise WeightError(
                f"{folder}: {name}: expected at least {kept} layers, the model has {len(stack.layers)}"
            )
        stack.layers = paddle.nn.LayerList(list(stack.layers)[:kept])
    for name, heads in structure["heads"].items():
        layer = _sublayer(target, name, nn.MultiHeadAttention, folder)
        layer.num_heads, layer.num_kv_heads = heads
    _replace_quantized(target, structure["quantized"], tensors, folder)
    _fill(target, _unpacked(tensors, structure["quantized"]), folder)
    update_config(target)
    return target


def _structure(model: Layer) -> dict[str, Any]:
    layers = list(model.named_sublayers(include_self=True))
    return {
        "stacks": {
            name: len(layer.layers) for name, layer in layers if isinstance(layer, nn.TransformerEncoder)
        },
        "heads": {
            name: [layer.num_heads, layer.num_kv_heads]
            for name, layer in layers
            if isinstance(layer, nn.MultiHeadAttention)
        },
        "quantized": {
            name: {
                "bits": layer.bits,
                "group_size": getattr(layer, "group_size", None),
                "inputs": layer.weight.shape[0],
                "activation": layer.activation,
            }
            for name, layer in layers
            if isinstance(layer, QuantizedLinear)
        },
    }


def _tensors(model: Layer) -> dict[str, np.ndarray]:
    state = {
        name: tensor.numpy() for name, tensor in model.state_dict().items() if _check_dtype(name, tensor)
    }
    for name, layer in model.named_sublayers(include_self=True):
        prefix = f"{name}." if name else ""
        if isinstance(layer, Int4Linear):
            del state[f"{prefix}weight"]
            state[f"{prefix}{_PACKED[1:]}"] = pack_int4(layer.codes().numpy())
        elif isinstance(layer, Int8Linear) and layer.bits == 4:
            state[f"{prefix}{_PACKED[1:]}"] = pack_int4(state.pop(f"{prefix}weight_int8"))
    return {name: np.ascontiguousarray(value) for name, value in state.items()}


def _check_dtype(name: str, tensor: paddle.Tensor) -> bool:
    if dtype_name(tensor) not in ("float32", "int8", "int32", "int64", "bool"):
        raise UnsupportedError(f"{name}: expected float32 or integers, got {dtype_name(tensor)}")
    return True


def pack_int4(codes: np.ndarray) -> np.ndarray:
    """Put codes ``[K, N]`` from -8 to 7 into uint8 ``[⌈K / 2⌉, N]``, plus 8: even rows in the low half of a byte."""
    shifted = np.pad((codes + 8).astype(np.uint8), [(0, len(codes) % 2), (0, 0)])
    return shifted[0::2] | (shifted[1::2] << 4)


def unpack_int4(packed: np.ndarray, rows: int) -> np.ndarray:
    """Return the int8 codes that :func:`pack_int4` was given."""
    halves = np.stack([packed & 15, packed >> 4], axis=1).reshape([-1, packed.shape[1]])
    return halves[:rows].astype(np.int8) - 8


def _read_structure(folder: Path) -> dict[str, Any]:
    path = folder / STRUCTURE_FILE
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        expected, digest = found["sha256"], sha256_of(folder / WEIGHT_FILE)
        known = found["format"]
        parts = [found[key].items() for key in ("stacks", "heads", "quantized")]
    except FileNotFoundError as error:
        raise WeightError(
            f"{folder}: expected {STRUCTURE_FILE} and {WEIGHT_FILE}, got no {error.filename}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightError(f"{path}: expected a complete description, got a damaged one: {error!r}") from error
    if known != _FORMAT or len(parts) != 3:
        raise WeightError(f"{path}: expected format {_FORMAT!r}, got {known!r}")
    if digest != expected:
        raise WeightError(f"{folder / WEIGHT_FILE}: expected SHA-256 {expected}, got {digest}")
    return found


def _sublayer(model: Layer, name: str, kind: type | tuple[type, ...], folder: Path) -> Layer:
    layer = dict(model.named_sublayers(include_self=True)).get(name)
    if not isinstance(layer, kind):
        raise WeightError(
            f"{folder}: expected a model with {getattr(kind, '__name__', 'a linear layer')} {name!r}, got "
            f"{'none' if layer is None else type(layer).__name__} there"
        )
    return layer


def _replace_quantized(
    model: Layer, quantized: Mapping[str, Mapping[str, Any]], tensors: dict[str, np.ndarray], folder: Path
) -> None:
    new: dict[int, Layer] = {}
    for name, facts in quantized.items():
        old = _sublayer(model, name, paddle.nn.Linear, folder)
        has_bias = f"{name}.bias" in tensors
        bias = paddle.zeros([1]) if has_bias else None  # its values come with all others
        scale, activation = paddle.zeros([1, 1]), facts["activation"]
        if facts["group_size"] is None:
            new[id(old)] = Int8Linear(scale.astype("int8"), scale, bias, activation, bits=facts["bits"])
        else:
            new[id(old)] = Int4Linear(scale, scale, bias, activation, group_size=facts["group_size"])
    replace_layers(model, new)


def _unpacked(
    tensors: Mapping[str, np.ndarray], quantized: Mapping[str, Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """Return the state as the layers hold it."""
    state = {name: value for name, value in tensors.items() if not name.endswith(_PACKED)}
    for name, facts in quantized.items():
        packed = tensors.get(name + _PACKED)
        if packed is None:
            continue
        codes = unpack_int4(packed, facts["inputs"])
        if facts["group_size"] is None:
            state[f"{name}.weight_int8"] = codes
        else:
            scale = paddle.to_tensor(tensors[f"{name}.weight_scale"])
            spread_scale = spread(scale, facts["group_size"], facts["inputs"]).numpy()
            state[f"{name}.weight"] = codes.astype(np.float32) * spread_scale
    return state


def _fill(model: Layer, state: Mapping[str, np.ndarray], folder: Path) -> None:
    """Give every parameter and buffer its value, whatever its shape was: only names must agree."""
    names = set(model.state_dict())
    if different := sorted(names ^ set(state)):
        raise WeightError(
            f"{folder}: expected the names of the model's {len(names)} tensors, they differ in {different[:5]}"
        )
    for prefix, layer in model.named_sublayers(include_self=True):
        for own in (*layer._parameters, *layer._buffers):
            name = f"{prefix}.{own}" if prefix else own
            old = getattr(layer, own)
            if name not in state or old is None:
                continue
            value = state[name]
            if value.ndim != old.ndim and not isinstance(layer, QuantizedLinear):
                raise WeightError(
                    f"{folder}: {name}: expected {old.ndim} dimensions, got shape {list(value.shape)}"
                )
            _set(layer, own, old, value)


def _set(layer: Layer, name: str, old: paddle.Tensor, value: np.ndarray) -> None:
    new = paddle.to_tensor(value)
    if list(old.shape) == list(value.shape) and old.dtype == new.dtype:
        old.set_value(new)
    elif name in layer._parameters:
        set_parameter(layer, name, new)
    else:
        layer._buffers[name] = new
