"""A PyTorch encoder-decoder in float64 with the weights of an ``EncoderDecoder``: an independent forward pass."""

from __future__ import annotations

import math

import numpy as np
import paddle
import torch
from torch import nn

from paddle_infra.models import EncoderDecoder


def array(x: paddle.Tensor) -> np.ndarray:
    return x.numpy().astype(np.float64)


class TorchEncoderDecoder:
    """``leaves``: PyTorch's tensors by the names of our parameters, as leaves that get gradients."""

    def __init__(self, model: EncoderDecoder) -> None:
        config = model.config
        self.config = config
        self.leaves = {
            name: torch.tensor(array(value), requires_grad=True) for name, value in model.named_parameters()
        }

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        product = x @ self.leaves[name + ".weight"]
        return product + self.leaves[name + ".bias"] if name + ".bias" in self.leaves else product

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.leaves[name + ".weight"], self.leaves[name + ".bias"]
        return nn.functional.layer_norm(x, x.shape[-1:], weight, bias, self.config.epsilon)

    def attention(self, x: torch.Tensor, memory: torch.Tensor, seen: torch.Tensor, name: str) -> torch.Tensor:
        heads = self.config.num_heads
        q, k, v = (
            self.linear(source, f"{name}.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for source, part in ((x, "query"), (memory, "key"), (memory, "value"))
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
        return self.linear((weights @ v).transpose(1, 2).flatten(2), f"{name}.output")

    def sublayer(self, x: torch.Tensor, name: str, run: object) -> torch.Tensor:
        if self.config.norm_first:
            return x + run(self.norm(x, name))
        return self.norm(x + run(x), name)

    def embed(self, ids: np.ndarray, name: str) -> torch.Tensor:
        width = self.config.hidden_size
        place = np.arange(ids.shape[1])[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
        sinusoids = np.stack([np.sin(place), np.cos(place)], -1).reshape(ids.shape[1], width)
        table = self.leaves[name + ".word.weight"]
        return table[torch.tensor(ids)] * math.sqrt(width) + torch.tensor(sinusoids)

    def mlp(self, x: torch.Tensor, layer: str) -> torch.Tensor:
        return self.linear(torch.relu(self.linear(x, layer + ".intermediate")), layer + ".output")

    def encode(self, ids: np.ndarray, seen: torch.Tensor) -> torch.Tensor:
        shared = "decoder.embedding"
        x = self.embed(ids, shared if self.config.share_embeddings else "source_embedding")
        for number in range(self.config.num_encoder_layers):
            layer = f"encoder.layers.{number}"
            x = self.sublayer(
                x,
                layer + ".attention_norm",
                lambda y, at=layer: self.attention(y, y, seen, at + ".attention"),
            )
            x = self.sublayer(x, layer + ".output_norm", lambda y, at=layer: self.mlp(y, at))
        return self.norm(x, "encoder.norm") if self.config.norm_first else x

    def logits(self, source: np.ndarray, lengths: np.ndarray, target: np.ndarray) -> torch.Tensor:
        seen = torch.tensor(np.arange(source.shape[1]) < lengths[:, None])[:, None, None]
        causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).tril()
        memory = self.encode(source, seen)
        x = self.embed(target, "decoder.embedding")
        for number in range(self.config.num_layers):
            layer = f"decoder.stack.layers.{number}"
            x = self.sublayer(
                x,
                layer + ".attention_norm",
                lambda y, at=layer: self.attention(y, y, causal, at + ".attention"),
            )
            x = self.sublayer(
                x,
                layer + ".cross_attention_norm",
                lambda y, at=layer: self.attention(y, memory, seen, at + ".cross_attention"),
            )
            x = self.sublayer(x, layer + ".output_norm", lambda y, at=layer: self.mlp(y, at))
        x = self.norm(x, "decoder.stack.norm") if self.config.norm_first else x
        return x @ self.leaves.get("decoder.output_weight", self.leaves["decoder.embedding.word.weight"]).T
