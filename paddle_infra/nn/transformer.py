"""Transformer encoder: layer and stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.attention import MultiHeadAttention

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda hidden: F.gelu(hidden, approximate=True),
    "relu": F.relu,
    "silu": F.silu,
}


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
        self.intermediate = nn.Linear(hidden_size, intermediate_size)
        self.output = nn.Linear(intermediate_size, hidden_size)
        self.output_norm = nn.LayerNorm(hidden_size, epsilon=epsilon)
        self.activation = activation
        self.dropout = dropout

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.dropout, training=self.training) if self.dropout else hidden

    def forward(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the layer's output."""
        hidden = self.attention_norm(hidden + self._drop(self.attention(hidden, bias)))
        inner = _ACTIVATIONS[self.activation](self.intermediate(hidden))
        return self.output_norm(hidden + self._drop(self.output(inner)))


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
