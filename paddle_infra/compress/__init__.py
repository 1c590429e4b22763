"""Smaller and faster models: quantization, pruning and students, behind an accuracy gate."""

from __future__ import annotations

from paddle_infra.compress.bfloat16 import to_inference_bfloat16
from paddle_infra.compress.gate import AccuracyGate, GateResult, gated
from paddle_infra.compress.importance import (
    Importance,
    equally_many,
    least_important,
    magnitude_importance,
    taylor_importance,
)
from paddle_infra.compress.magnitude import SparsityMasks, prune_weights
from paddle_infra.compress.onnx import quantize_onnx
from paddle_infra.compress.quantize import dequantize_linears, quantize_linears
from paddle_infra.compress.quantized_linear import Int4Linear, Int8Linear
from paddle_infra.compress.saving import load_compressed, save_compressed
from paddle_infra.compress.structured import keep_layers, prune_channels, prune_heads
from paddle_infra.compress.vocabulary import VocabularyMap, prune_vocabulary

__all__ = [
    "AccuracyGate",
    "GateResult",
    "Importance",
    "Int4Linear",
    "Int8Linear",
    "SparsityMasks",
    "VocabularyMap",
    "dequantize_linears",
    "equally_many",
    "gated",
    "keep_layers",
    "least_important",
    "load_compressed",
    "magnitude_importance",
    "prune_channels",
    "prune_heads",
    "prune_vocabulary",
    "prune_weights",
    "quantize_linears",
    "quantize_onnx",
    "save_compressed",
    "taylor_importance",
    "to_inference_bfloat16",
]
