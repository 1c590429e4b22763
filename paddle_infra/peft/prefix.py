"""Prefix tuning: learned keys and values before a sequence's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.checks import check_positive
from paddle_infra.nn import MultiHeadAttention
from paddle_infra.peft.adapter import new_parameter, raw_weight
from paddle_infra.peft.config import AdapterConfig, LayerPattern, Plan, match_layers


@dataclass(frozen=True)
class PrefixConfig(AdapterConfig):
    r"""Keys and values that every query of an attention layer sees, in each layer others.

    Either they are the parameters, normal with deviation 0.02 at first, or a perceptron makes them of an embedding
    ``[length, hidden_size]``: :math:`\tanh(E V + v)\, U + u`.

    Args:
        length: how many.
        inner_size: width of the perceptron; None: none.
        layers: which :class:`~paddle_infra.nn.MultiHeadAttention` layers.

    References:
        Li and Liang, arXiv:2101.00190, sections 4.2 and 4.3; there all layers share one perceptron, here each has its
        own.
    """

    kind: ClassVar[str] = "prefix"

    length: int = 16
    inner_size: int | None = None
    layers: LayerPattern = ".*"

    def __post_init__(self) -> None:
        check_positive("length", self.length)
        if self.inner_size is not None:
            check_positive("inner_size", self.inner_size)

    def plan(self, model: nn.Layer) -> Plan:
        """Say which layers are adapted and how."""
        found = match_layers(model, self.layers, (MultiHeadAttention,), "layers")
        return {name: partial(Prefix, layer, self) for name, layer in found.items()}


class Prefix(nn.Layer):
    """Called with the batch size, returns keys and values, each ``[batch_size, length, num_kv_heads, head_dim]``."""

    is_mergeable = False

    def __init__(self, attention: MultiHeadAttention, config: PrefixConfig) -> None:
        super().__init__()
        self.shape = [config.length, attention.num_kv_heads, attention.head_dim]
        like, normal = raw_weight(attention.key), nn.initializer.Normal(0.0, 0.02)
        self.inner_size = config.inner_size
        if config.inner_size is None:
            self.keys = new_parameter(self, self.shape, like, normal)
            self.values = new_parameter(self, self.shape, like, normal)
        else:
            width = attention.num_kv_heads * attention.head_dim
            self.embedding = new_parameter(self, [config.length, attention.hidden_size], like, normal)
            self.inner = nn.Linear(attention.hidden_size, config.inner_size)
            self.outer = nn.Linear(config.inner_size, 2 * width)

    def forward(self, batch_size: int | Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values."""
        if self.inner_size is None:
            keys, values = self.keys, self.values
        else:
            both = self.outer(F.tanh(self.inner(self.embedding)))
            keys, values = (half.reshape(self.shape) for half in both.chunk(2, axis=-1))
        sizes = [batch_size, *self.shape]
        return keys.unsqueeze(0).expand(sizes), values.unsqueeze(0).expand(sizes)
