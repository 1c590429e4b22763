"""Multi-head self-attention as a Layer."""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.errors import InvalidInputError

# Added to the scores of masked keys. exp(-1e9) is exactly 0 in float32, and the sum stays finite, unlike with -inf.
_MASKED_SCORE = -1e9


def key_padding_bias(attention_mask: Tensor) -> Tensor:
    """Turn a padding mask into scores to add: 0 where a key is kept, -1e9 where it is padding.

    Args:
        attention_mask: integers ``[batch_size, seq_len]``, 1 = token, 0 = padding.

    Returns:
        float32 ``[batch_size, 1, 1, seq_len]``, broadcast over heads and queries.
    """
    padding = 1.0 - attention_mask.astype("float32")
    return (padding * _MASKED_SCORE).unsqueeze([1, 2])


class MultiHeadAttention(nn.Layer):
    r"""Scaled dot-product self-attention with several heads.

    ``softmax(Q Kᵀ / √head_dim + bias) V``, then an output projection.

    Args:
        hidden_size: width of input and output; a multiple of ``num_heads``.
        num_heads: number of heads.
        dropout: dropout probability on the attention weights.

    Shapes:
        hidden ``[batch_size, seq_len, hidden_size]``; bias broadcastable to
        ``[batch_size, num_heads, seq_len, seq_len]`` or None; result as hidden.

    References:
        Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, section 3.2.
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if num_heads <= 0 or hidden_size % num_heads:
            raise InvalidInputError(
                f"hidden_size must be a multiple of num_heads, got hidden_size={hidden_size}, num_heads={num_heads}"
            )
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.scale = 1.0 / math.sqrt(self.head_dim)
        self.dropout = dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def _split_heads(self, projected: Tensor) -> Tensor:
        return projected.reshape([0, 0, self.num_heads, self.head_dim]).transpose([0, 2, 1, 3])

    def forward(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the attended and projected hidden states."""
        query = self._split_heads(self.query(hidden) * self.scale)
        key = self._split_heads(self.key(hidden))
        value = self._split_heads(self.value(hidden))
        scores = paddle.matmul(query, key, transpose_y=True)
        if bias is not None:
            scores = scores + bias
        weights = F.softmax(scores, axis=-1)
        if self.dropout:
            weights = F.dropout(weights, self.dropout, training=self.training)
        context = paddle.matmul(weights, value).transpose([0, 2, 1, 3]).flatten(2)
        return self.output(context)
