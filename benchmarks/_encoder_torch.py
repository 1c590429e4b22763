"""The encoder of ``paddle_infra.models.BertModel`` in PyTorch, as a user of it would write it, with given weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Layer(nn.Module):
    """Self-attention and a two-layer perceptron, post-norm."""

    def __init__(self, hidden: int, heads: int, intermediate: int, dropout: float, epsilon: float) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(hidden, hidden) for _ in range(4))
        self.up, self.down = nn.Linear(hidden, intermediate), nn.Linear(intermediate, hidden)
        self.attention_norm, self.output_norm = (nn.LayerNorm(hidden, epsilon) for _ in range(2))
        self.heads, self.dropout = heads, dropout

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the layer's output."""
        batch, length, width = hidden.shape
        query, key, value = (
            part(hidden).view(batch, length, self.heads, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        rate = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        attended = self.output(context.transpose(1, 2).reshape(batch, length, width))
        hidden = self.attention_norm(hidden + F.dropout(attended, self.dropout, self.training))
        inner = self.down(F.gelu(self.up(hidden)))
        return self.output_norm(hidden + F.dropout(inner, self.dropout, self.training))


class Encoder(nn.Module):
    """Embeddings and layers."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.word = nn.Embedding(config.vocab_size, width)
        self.position = nn.Embedding(config.max_position_embeddings, width)
        self.token_type = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, epsilon)
        self.dropout = config.hidden_dropout_prob
        shape = (width, config.num_attention_heads, config.intermediate_size)
        self.layers = nn.ModuleList(
            Layer(*shape, self.dropout, epsilon) for _ in range(config.num_hidden_layers)
        )

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the hidden states."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        types = torch.zeros_like(ids)
        hidden = self.norm(self.word(ids) + self.position(positions) + self.token_type(types))
        hidden = F.dropout(hidden, self.dropout, self.training)
        seen = (mask != 0)[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, seen)
        return hidden


# Names in Paddle's model, and here.
_OUTSIDE = {"word": "word", "position": "position", "token_type": "token_type", "norm": "norm"}
_INSIDE = {
    "attention.query": "query",
    "attention.key": "key",
    "attention.value": "value",
    "attention.output": "output",
    "attention_norm": "attention_norm",
    "intermediate": "up",
    "output": "down",
    "output_norm": "output_norm",
}


def make_encoder(config: Any, weights: Mapping[str, np.ndarray]) -> Encoder:
    """Build the encoder with the weights of a ``BertModel`` (``{name: array}``)."""
    names = {f"encoder.embeddings.{ours}": theirs for ours, theirs in _OUTSIDE.items()}
    for layer in range(config.num_hidden_layers):
        prefix = f"encoder.stack.layers.{layer}."
        names |= {f"{prefix}{ours}": f"layers.{layer}.{theirs}" for ours, theirs in _INSIDE.items()}
    encoder = Encoder(config)
    state = {}
    for ours, theirs in names.items():
        weight = weights[f"{ours}.weight"]
        is_embedding = theirs in ("word", "position", "token_type")
        state[f"{theirs}.weight"] = torch.from_numpy(
            np.ascontiguousarray(weight if is_embedding or weight.ndim == 1 else weight.T)
        )
        if f"{ours}.bias" in weights:
            state[f"{theirs}.bias"] = torch.from_numpy(weights[f"{ours}.bias"])
    encoder.load_state_dict(state)
    return encoder
