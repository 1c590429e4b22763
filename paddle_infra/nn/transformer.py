"""Transformer encoder: layer and stack."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.attention import MultiHeadAttention
from paddle_infra.nn.linear import Linear
from paddle_infra.ops.linear import ActivationName

# What checkpoints call activations, and what paddle_infra.ops.linear does.
_ACTIVATIONS: Mapping[str, ActivationName] = MappingProxyType(
    {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}
)


class TransformerEncoderLayer(nn.Layer):
    """Self-attention and a two-layer perceptron, each with a residual and a LayerNorm after it (post-norm).

    Args:
        hidden_size: width of input and output.
        num_heads: attention heads.
        intermediate_size: width of the perceptron's inner layer.
        activation: ``"gelu"`` (exact, with erf), ``"gelu_new"`` (tanh approximation), ``"relu"`` or ``"silu"``.
        dropout: dropout probability after each sub-layer.
        attention_dropout: dropout probability on the attention weights.
        epsilon: added to the variance in LayerNorm.

    Shapes:
        hidden ``[batch_size, seq_len, hidden_size]`` to the same; bias as in :class:`MultiHeadAttention`.

    References:
        Devlin et al., "BERT", arXiv:1810.04805; Vaswani et al., arXiv:1706.03762, section 3.1.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        activation: str = "gelu",
        *,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        epsilon: float = 1e-12,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise InvalidInputError(f"activation must be one of {sorted(_ACTIVATIONS)}, got {activation!r}")
        self.attention = MultiHeadAttention(hidden_size, num_heads, attention_dropout)
        self.attention_norm = nn.LayerNorm(hidden_size, epsilon=epsilon)
        self.intermediate = Linear(hidden_size, intermediate_size, _ACTIVATIONS[activation])
        self.output = Linear(intermediate_size, hidden_size)
        self.output_norm = nn.LayerNorm(hidden_size, epsilon=epsilon)
        self.epsilon = epsilon
        self.dropout = dropout

    def _add(self, hidden: Tensor, residual: Tensor, norm: nn.LayerNorm) -> Tensor:
        return ops.add_norm(
            hidden,
            residual,
            norm.weight,
            norm.bias,
            epsilon=self.epsilon,
            dropout_p=self.dropout,
            training=self.training,
        )

    def forward(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the layer's output."""
        hidden = self._add(self.attention(hidden, bias), hidden, self.attention_norm)
        return self._add(self.output(self.intermediate(hidden)), hidden, self.output_norm)


class TransformerEncoder(nn.Layer):
    """A stack of :class:`TransformerEncoderLayer`; arguments and shapes as there."""

    def __init__(
        self, num_layers: int, hidden_size: int, num_heads: int, intermediate_size: int, **options: Any
    ) -> None:
        super().__init__()
        self.layers = nn.LayerList(
            [
                TransformerEncoderLayer(hidden_size, num_heads, intermediate_size, **options)
                for _ in range(num_layers)
            ]
        )

    def forward(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the last layer's output."""
        for layer in self.layers:
            hidden = layer(hidden, bias)
        return hidden
