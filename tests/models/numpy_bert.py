"""BERT in numpy, float64, written from the paper and the names in the checkpoint: shares no code with ours."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * weight + bias


def bert_hidden_states(
    weights: Mapping[str, np.ndarray],
    input_ids: np.ndarray,
    token_type_ids: np.ndarray,
    attention_mask: np.ndarray,
    *,
    num_layers: int,
    num_heads: int,
    epsilon: float = 1e-12,
) -> np.ndarray:
    """Return float64 ``[batch_size, seq_len, hidden_size]``; ``weights`` have the checkpoint's names and layout."""
    w = {name: value.astype(np.float64) for name, value in weights.items() if value.dtype.kind == "f"}

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], epsilon)

    batch, length = input_ids.shape
    x = (
        w["embeddings.word_embeddings.weight"][input_ids]
        + w["embeddings.position_embeddings.weight"][:length]
        + w["embeddings.token_type_embeddings.weight"][token_type_ids]
    )
    x = norm(x, "embeddings.LayerNorm")
    heads = (batch, length, num_heads, -1)
    keep = attention_mask[:, None, None, :].astype(bool)
    for index in range(num_layers):
        name = f"encoder.layer.{index}"
        q, k, v = (
            dense(x, f"{name}.attention.self.{part}").reshape(heads).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = np.where(keep, q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]), -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        attended = (scores / scores.sum(-1, keepdims=True)) @ v
        attended = attended.transpose(0, 2, 1, 3).reshape(batch, length, -1)
        x = norm(x + dense(attended, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        inner = gelu(dense(x, f"{name}.intermediate.dense"))
        x = norm(x + dense(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return x
