"""Adapters on disk: a configuration and the adapter's weights only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from paddle import Tensor, nn
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from paddle_infra._core.atomic import atomic_file, sha256_of, write_json
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, WeightError
from paddle_infra.peft.adalora import AdaLoRAConfig
from paddle_infra.peft.applying import AppliedAdapter, apply, delete_adapter, find, state_of
from paddle_infra.peft.bottleneck import BottleneckConfig
from paddle_infra.peft.config import AdapterConfig
from paddle_infra.peft.ia3 import IA3Config
from paddle_infra.peft.lora import LoRAConfig
from paddle_infra.peft.prefix import PrefixConfig
from paddle_infra.peft.prompt import PromptConfig

CONFIG_FILE, WEIGHT_FILE = "adapter_config.json", "adapter_model.safetensors"
FORMAT = "paddle_infra.peft/1"

KINDS: Mapping[str, type[AdapterConfig]] = MappingProxyType(
    {
        config.kind: config
        for config in (LoRAConfig, AdaLoRAConfig, BottleneckConfig, PrefixConfig, PromptConfig, IA3Config)
    }
)


def save_adapter(model: nn.Layer, directory: str | Path, name: str | None = None) -> None:
    """Write an adapter, by default the active one, and its values of ``train_also``; nothing else of the model.

    ``adapter_model.safetensors`` holds tensors by layer, in Paddle's layout; ``adapter_config.json`` method, settings,
    and the checksum of the weights. Each is written atomically, the weights first, so a stopped write cannot go
    unnoticed.

    Raises:
        InvalidInputError: there is no such adapter.
        StorageError: a file could not be written.
    """
    state = state_of(model)
    adapter = find(state, name)
    tensors = {key: _array(tensor) for key, tensor in adapter_tensors(model, adapter).items()}
    values = {
        "format": FORMAT,
        "kind": adapter.config.kind,
        "settings": adapter.config.to_json(),
        "layers": list(adapter.layers),
        "train_also": list(adapter.train_also),
    }
    write_adapter_files(Path(directory), tensors, values)


def load_adapter(model: nn.Layer, directory: str | Path, *, name: str = "default") -> AppliedAdapter:
    """Put an adapter that :func:`save_adapter` wrote into a model of the same structure, and make it the active one.

    Raises:
        InvalidInputError: the name is taken or unsuitable.
        WeightError: a file is missing or damaged, or does not fit the model, which is unchanged then.
    """
    folder = Path(directory)
    values = read_config(folder)
    if values.get("format") != FORMAT:
        hint = "; read it with peft.load_huggingface" if "peft_type" in values else ""
        raise WeightError(
            f"{folder / CONFIG_FILE}: expected format {FORMAT!r}, got {values.get('format')!r}{hint}"
        )
    try:
        config = KINDS[values["kind"]].from_json(values["settings"])
        layers, also, digest = values["layers"], values["train_also"], values["weights_sha256"]
    except (KeyError, InvalidInputError, InvalidDtypeError) as error:
        raise WeightError(f"{folder / CONFIG_FILE}: expected an adapter's settings, got {error!r}") from error
    tensors = read_tensors(folder)
    if sha256_of(folder / WEIGHT_FILE) != digest:
        raise WeightError(
            f"{folder / WEIGHT_FILE}: expected SHA-256 {digest}, got another one: it is damaged"
        )
    return apply_and_fill(model, config, name, layers, also, tensors, folder / WEIGHT_FILE)


def apply_and_fill(
    model: nn.Layer,
    config: AdapterConfig,
    name: str,
    layers: list[str],
    train_also: list[str],
    tensors: Mapping[str, np.ndarray],
    source: Path,
) -> AppliedAdapter:
    """Apply an adapter and give it its values; take it away again if they do not fit.

    Raises:
        WeightError: layers, names or shapes differ.
    """
    try:
        adapter = apply(model, config, name=name, train_also=train_also)
    except InvalidInputError as error:
        if str(error).startswith("name:"):
            raise
        raise WeightError(f"{source}: expected an adapter of such a model: {error}") from error
    try:
        if sorted(adapter.layers) != sorted(layers):
            different = sorted(set(adapter.layers) ^ set(layers))
            raise WeightError(
                f"{source}: expected an adapter of the same layers, different are {different[:5]}"
            )
        targets = adapter_tensors(model, adapter)
        if targets.keys() != tensors.keys():
            different = sorted(targets.keys() ^ tensors.keys())
            raise WeightError(
                f"{source}: expected {len(targets)} tensors, missing or unknown are {different[:5]}"
            )
        for key, target in targets.items():
            _check(tensors[key], target, f"{source}: {key}")
        for key, target in targets.items():
            target.set_value(tensors[key])
    except WeightError:
        delete_adapter(model, name)
        raise
    return adapter


def adapter_tensors(model: nn.Layer, adapter: AppliedAdapter) -> dict[str, Tensor]:
    """Return what belongs to an adapter: ``<layer>.<tensor>``, and its values of ``train_also``."""
    state, layers = state_of(model), dict(model.named_sublayers())
    found = {
        f"{layer}.{key}": tensor
        for layer in adapter.layers
        for key, tensor in layers[layer].adapters[adapter.name].state_dict().items()
    }
    parameters = dict(model.named_parameters())
    is_active = state.active == adapter.name
    own = parameters if is_active else state.values[adapter.name]
    return {**found, **{key: own[key] for key in adapter.train_also}}


def write_adapter_files(
    folder: Path, tensors: Mapping[str, np.ndarray], values: Mapping[str, Any], metadata: str = "paddle"
) -> None:
    """Write weights and configuration, each atomically; the configuration names the checksum of the weights."""
    with atomic_file(folder / WEIGHT_FILE) as temporary:
        save_file(dict(tensors), temporary, metadata={"format": metadata})
    digest = sha256_of(folder / WEIGHT_FILE)
    write_json(folder / CONFIG_FILE, {**values, "weights_sha256": digest} if metadata == "paddle" else values)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration.

    Raises:
        WeightError: the file is missing or no JSON object.
    """
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightError(f"{path}: expected an adapter's configuration, but there is no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(values, dict):
        raise WeightError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Return the weights.

    Raises:
        WeightError: the file is missing or damaged.
    """
    path = folder / WEIGHT_FILE
    if not path.is_file():
        raise WeightError(f"{path}: expected a safetensors file, but there is no such file")
    try:
        with safe_open(path, framework="np") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    except SafetensorError as error:
        raise WeightError(
            f"{path}: expected a complete safetensors file, got a damaged one ({error})"
        ) from error


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy())


def _check(value: np.ndarray, target: Tensor, where: str) -> None:
    expected = str(target.dtype).rsplit(".", 1)[-1]
    if list(value.shape) != list(target.shape) or str(value.dtype) != expected:
        raise WeightError(
            f"{where}: expected {expected}{list(target.shape)}, got {value.dtype}{list(value.shape)}"
        )
    if not np.isfinite(value).all():
        raise WeightError(f"{where}: expected finite values, got NaN or infinity")
