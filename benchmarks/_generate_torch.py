"""Greedy generation of an encoder-decoder in PyTorch, with preallocated caches: one contestant of bench_generate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


class TorchGreedy:
    """The model of ``paddle_infra.models.EncoderDecoder`` (post-norm, sinusoidal positions, everything shared).

    Linear weights are stored ``[out, in]``, as PyTorch's own layers store them; sources have no padding.
    """

    def __init__(self, config: Any, weights: Mapping[str, np.ndarray]) -> None:
        self.config = config
        self.weights = {
            name: torch.from_numpy(
                np.ascontiguousarray(value.T if value.ndim == 2 and "embedding" not in name else value)
            )
            for name, value in weights.items()
        }
        width = config.hidden_size
        angle = np.outer(np.arange(config.max_positions), 10000.0 ** (-np.arange(0, width, 2) / width))
        table = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(-1, width)
        self.positions = torch.from_numpy(table.astype(np.float32))

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.weights[name + ".weight"], self.weights[name + ".bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.config.epsilon)

    def _heads(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return self._linear(x, name).unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)

    def _attend(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, name: str) -> torch.Tensor:
        context = F.scaled_dot_product_attention(self._heads(x, name + ".query"), keys, values)
        return self._linear(context.transpose(1, 2).flatten(2), name + ".output")

    def _perceptron(self, x: torch.Tensor, layer: str) -> torch.Tensor:
        inner = F.relu(self._linear(x, layer + ".intermediate"))
        return self._norm(x + self._linear(inner, layer + ".output"), layer + ".output_norm")

    def _embed(self, ids: torch.Tensor, start: int) -> torch.Tensor:
        scaled = self.weights["decoder.embedding.word.weight"][ids] * math.sqrt(self.config.hidden_size)
        return scaled + self.positions[start : start + ids.shape[1]]

    @torch.inference_mode()
    def generate(self, source: np.ndarray, new_tokens: int) -> np.ndarray:
        """Return ``new_tokens`` tokens for each source."""
        x = self._embed(torch.from_numpy(source), 0)
        for number in range(self.config.num_encoder_layers):
            layer = f"encoder.layers.{number}"
            keys, values = (self._heads(x, f"{layer}.attention.{part}") for part in ("key", "value"))
            x = self._norm(x + self._attend(x, keys, values, layer + ".attention"), layer + ".attention_norm")
            x = self._perceptron(x, layer)
        layers = [f"decoder.stack.layers.{number}" for number in range(self.config.num_layers)]
        memories = [
            [self._heads(x, f"{layer}.cross_attention.{part}") for part in ("key", "value")]
            for layer in layers
        ]
        heads, width = self.config.num_heads, self.config.hidden_size // self.config.num_heads
        caches = [[torch.zeros(len(source), heads, new_tokens, width) for _ in range(2)] for _ in layers]
        token = torch.full((len(source), 1), self.config.begin_id)
        found = []
        for place in range(new_tokens):
            x = self._embed(token, place)
            for layer, cache, memory in zip(layers, caches, memories, strict=True):
                for kept, part in zip(cache, ("key", "value"), strict=True):
                    kept[:, :, place : place + 1] = self._heads(x, f"{layer}.attention.{part}")
                seen = [kept[:, :, : place + 1] for kept in cache]
                x = self._norm(x + self._attend(x, *seen, layer + ".attention"), layer + ".attention_norm")
                crossed = self._attend(x, *memory, layer + ".cross_attention")
                x = self._norm(x + crossed, layer + ".cross_attention_norm")
                x = self._perceptron(x, layer)
            logits = F.linear(x[:, -1], self.weights["decoder.embedding.word.weight"])
            token = logits.argmax(-1, keepdim=True)
            found.append(token)
        return torch.cat(found, dim=1).numpy()
