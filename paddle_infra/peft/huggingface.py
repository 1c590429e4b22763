"""LoRA adapters in the files of Hugging Face's PEFT: its names, and its layout, which is the transpose of Paddle's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from paddle import nn

from paddle_infra._core.errors import InvalidInputError, UnsupportedError, WeightError
from paddle_infra.peft.applying import AppliedAdapter, find, state_of
from paddle_infra.peft.files import (
    CONFIG_FILE,
    WEIGHT_FILE,
    adapter_tensors,
    apply_and_fill,
    read_config,
    read_tensors,
    write_adapter_files,
)
from paddle_infra.peft.lora import LoRAConfig

LayerRules: TypeAlias = Sequence[tuple[str, str]]
"""Pairs of a regular expression of this package's layer names and the other library's name of that layer."""

BERT_LAYERS: LayerRules = (
    (r"encoder\.embeddings\.word", "bert.embeddings.word_embeddings"),
    (r"encoder\.embeddings\.position", "bert.embeddings.position_embeddings"),
    (r"encoder\.embeddings\.token_type", "bert.embeddings.token_type_embeddings"),
    (r"encoder\.embeddings\.norm", "bert.embeddings.LayerNorm"),
    (
        r"encoder\.stack\.layers\.(\d+)\.attention\.(query|key|value)",
        r"bert.encoder.layer.\1.attention.self.\2",
    ),
    (r"encoder\.stack\.layers\.(\d+)\.attention\.output", r"bert.encoder.layer.\1.attention.output.dense"),
    (r"encoder\.stack\.layers\.(\d+)\.attention_norm", r"bert.encoder.layer.\1.attention.output.LayerNorm"),
    (r"encoder\.stack\.layers\.(\d+)\.intermediate", r"bert.encoder.layer.\1.intermediate.dense"),
    (r"encoder\.stack\.layers\.(\d+)\.output", r"bert.encoder.layer.\1.output.dense"),
    (r"encoder\.stack\.layers\.(\d+)\.output_norm", r"bert.encoder.layer.\1.output.LayerNorm"),
    (r"encoder\.pooler", "bert.pooler.dense"),
    (r"head\.classifier", "classifier"),
)
"""The layers of this package's BERT models."""

_START = "base_model.model."
# Settings of theirs that change what an adapter computes, and what they are where they do not.
_SWITCHES = re.compile(
    r"use_(?!rslora).*|.*_config|(rank|alpha)_pattern|bias|fan_in_fan_out|lora_bias|layer_replication|"
    r"target_parameters|trainable_token_indices|alora_invocation_tokens"
)
_OFF: tuple[Any, ...] = (None, False, "none", {}, [])
# Other ways to start also change the base model's weights.
_STARTS = (True, False, "gaussian", "orthogonal", "eva")


def save_huggingface(
    model: nn.Layer,
    directory: str | Path,
    name: str | None = None,
    *,
    base_model: str | None = None,
    task_type: str | None = None,
    rules: LayerRules = BERT_LAYERS,
) -> None:
    """Write a LoRA adapter, by default the active one, as Hugging Face's PEFT reads it.

    Args:
        model: the adapted model; if it has no head it is taken for the bare encoder (``BertModel`` there).
        directory: gets ``adapter_config.json`` and ``adapter_model.safetensors``, each written atomically.
        name: which adapter.
        base_model: their name or folder of the base model.
        task_type: such as ``"SEQ_CLS"`` or ``"TOKEN_CLS"``.
        rules: names of the layers.

    Raises:
        InvalidInputError: there is no such adapter, or a layer has no name there.
        UnsupportedError: it is not LoRA.
        StorageError: a file could not be written.
    """
    adapter = find(state_of(model), name)
    if not isinstance(adapter.config, LoRAConfig):
        raise UnsupportedError(
            f"save_huggingface: expected a LoRA adapter, got {adapter.name!r} of {adapter.config.kind!r}"
        )
    names = _Names(model, rules)
    found = adapter_tensors(model, adapter)
    tensors = {}
    for ours in (
        *(f"{layer}.{part}" for layer in adapter.layers for part in ("down", "up")),
        *adapter.train_also,
    ):
        layer, part = ours.rsplit(".", 1)
        key, value = names.key(layer, part), found[ours].numpy()
        tensors[key] = np.ascontiguousarray(value.T if names.is_transposed(layer, part) else value)
    settings = adapter.config
    also = dict.fromkeys(names.layer(key.rsplit(".", 1)[0]) for key in adapter.train_also)
    values = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rank_stabilized,
        "bias": "none",
        "fan_in_fan_out": False,
        # Whole names, so that "output.dense" cannot mean two layers; without the part that a bare encoder lacks.
        "target_modules": [names.layer(layer).removeprefix("bert.") for layer in adapter.layers],
        "modules_to_save": [layer.removeprefix("bert.") for layer in also] or None,
    }
    write_adapter_files(Path(directory), tensors, values, metadata="pt")


def load_huggingface(
    model: nn.Layer, directory: str | Path, *, name: str = "default", rules: LayerRules = BERT_LAYERS
) -> AppliedAdapter:
    """Put a LoRA adapter that Hugging Face's PEFT wrote into a model, and make it the active one.

    Args:
        model: a model of the same sizes, changed in place.
        directory: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        name: the adapter's name here.
        rules: names of the layers.

    Raises:
        InvalidInputError: the name is taken or unsuitable.
        UnsupportedError: it is no LoRA adapter, or uses a setting that this package does not have.
        WeightError: a file is missing or damaged, or does not fit the model, which is unchanged then.
    """
    folder = Path(directory)
    values = read_config(folder)
    _check_plain(values, folder / CONFIG_FILE)
    names = _Names(model, rules)
    stored = read_tensors(folder)
    tensors: dict[str, np.ndarray] = {}
    for layer, part in names.tensors():
        key = names.stored_key(layer, part, stored)
        if key is not None:
            value = stored.pop(key)
            tensors[f"{layer}.{part}"] = np.ascontiguousarray(
                value.T if names.is_transposed(layer, part) else value, dtype=np.float32
            )
    if stored:
        raise WeightError(
            f"{folder / WEIGHT_FILE}: expected names of this model's layers, got {sorted(stored)[:5]}"
        )
    adapted = [key.rsplit(".", 1)[0] for key in tensors if key.endswith(".down")]
    also = [key for key in tensors if not key.endswith((".down", ".up"))]
    if not adapted:
        raise WeightError(f"{folder / WEIGHT_FILE}: expected LoRA matrices of this model's layers, got none")
    config = LoRAConfig(
        rank=values["r"],
        alpha=float(values["lora_alpha"]),
        dropout=float(values.get("lora_dropout", 0.0)),
        rank_stabilized=bool(values.get("use_rslora", False)),
        layers="|".join(re.escape(layer) for layer in adapted),
    )
    return apply_and_fill(model, config, name, adapted, also, tensors, folder / WEIGHT_FILE)


def _check_plain(values: dict[str, Any], path: Path) -> None:
    if values.get("peft_type") != "LORA":
        raise UnsupportedError(f"{path}: peft_type: expected 'LORA', got {values.get('peft_type')!r}")
    for key in ("r", "lora_alpha"):
        if isinstance(values.get(key), bool) or not isinstance(values.get(key), (int, float)):
            raise WeightError(f"{path}: {key}: expected a number, got {values.get(key)!r}")
    for key, value in values.items():
        if _SWITCHES.fullmatch(key) and value not in _OFF:
            raise UnsupportedError(f"{path}: {key}: expected an adapter of plain LoRA, got {value!r}")
    if values.get("init_lora_weights", True) not in _STARTS:
        raise UnsupportedError(
            f"{path}: init_lora_weights: expected one of {_STARTS}, got {values['init_lora_weights']!r}, which also "
            "changes the base model"
        )


class _Names:
    """Their names of a model's layers and of the tensors of its adapters."""

    def __init__(self, model: nn.Layer, rules: LayerRules) -> None:
        self._rules = rules
        self._layers = dict(model.named_sublayers())
        self._prefix = "bert." if any(re.fullmatch(r"head\..*", name) for name in self._layers) else ""

    def layer(self, name: str) -> str:
        """Return the name of a layer, as in a model with a head."""
        for pattern, replacement in self._rules:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, replacement, name)
        raise InvalidInputError(f"rules: expected a name for the layer {name!r}, got none")

    def key(self, layer: str, part: str) -> str:
        """Return the name of a tensor."""
        theirs = self.layer(layer)
        if not self._prefix:
            theirs = theirs.removeprefix("bert.")
        if part not in ("down", "up"):
            return f"{_START}{theirs}.{part}"
        letter = "A" if part == "down" else "B"
        if isinstance(self._layers[layer], nn.Embedding):
            return f"{_START}{theirs}.lora_embedding_{letter}"
        return f"{_START}{theirs}.lora_{letter}.weight"

    def stored_key(self, layer: str, part: str, stored: dict[str, np.ndarray]) -> str | None:
        """Return which of the stored names a tensor has, with or without the encoder's prefix."""
        key = self.key(layer, part).removeprefix(_START).removeprefix("bert.")
        return next((name for name in (f"{_START}{key}", f"{_START}bert.{key}") if name in stored), None)

    def is_transposed(self, layer: str, part: str) -> bool:
        """Whether their tensor is the transpose of ours."""
        return part in ("down", "up") or (part == "weight" and isinstance(self._layers[layer], nn.Linear))

    def tensors(self) -> list[tuple[str, str]]:
        """Return layer and part of every tensor that an adapter of this model might have."""
        found = []
        for name, layer in self._layers.items():
            if any(re.fullmatch(pattern, name) for pattern, _ in self._rules):
                parts = ("down", "up") if isinstance(layer, (nn.Linear, nn.Embedding)) else ()
                found += [(name, part) for part in (*parts, "weight", "bias")]
        return found
