"""Names of a Vision Transformer's parameters in the field's checkpoints."""

from __future__ import annotations

import re
from types import MappingProxyType

_EMBEDDINGS = MappingProxyType(
    {
        "encoder.class_token": "vit.embeddings.cls_token",
        "encoder.positions": "vit.embeddings.position_embeddings",
        "encoder.patch.weight": "vit.embeddings.patch_embeddings.projection.weight",
        "encoder.patch.bias": "vit.embeddings.patch_embeddings.projection.bias",
    }
)
_LAYER = MappingProxyType(
    {
        "attention.query": "attention.attention.query",
        "attention.key": "attention.attention.key",
        "attention.value": "attention.attention.value",
        "attention.output": "attention.output.dense",
        "attention_norm": "layernorm_before",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
        "output_norm": "layernorm_after",
    }
)
_PARTS = MappingProxyType({"encoder.stack.norm": "vit.layernorm", "head.classifier": "classifier"})
_IN_LAYER = re.compile(r"encoder\.stack\.layers\.(\d+)\.(.+)\.(weight|bias)")


def checkpoint_name(name: str) -> str:
    """Return the field's name of one of our parameters.

    Raises:
        KeyError: there is none.
    """
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    if match := _IN_LAYER.fullmatch(name):
        return f"vit.encoder.layer.{match[1]}.{_LAYER[match[2]]}.{match[3]}"
    part, _, kind = name.rpartition(".")
    return f"{_PARTS[part]}.{kind}"


def is_transposed(name: str) -> bool:
    """Whether the parameter is the weight of a Linear layer, which is ``[out, in]`` in the field."""
    return name.endswith(".weight") and "norm" not in name and name != "encoder.patch.weight"
