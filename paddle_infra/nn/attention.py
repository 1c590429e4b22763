"""Multi-head self-attention as a Layer."""

from __future__ import annotations

from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.linear import Linear


def key_padding_mask(attention_mask: Tensor) -> Tensor:
    """Turn a padding mask into one that says which keys every query sees.

    Args:
        attention_mask: integers ``[batch_size, seq_len]``, 1 = token, 0 = padding.

    Returns:
        bool ``[batch_size, 1, 1, seq_len]``, broadcast over heads and queries.
    """
    return (attention_mask != 0).unsqueeze([1, 2])


class MultiHeadAttention(nn.Layer):
    r"""Scaled dot-product self-attention with several heads.

    ``softmax(Q Kᵀ / √head_dim + bias) V``, then an output projection; the scores are never stored (see
    :func:`paddle_infra.ops.attention`).

    Args:
        hidden_size: width of input and output; a multiple of ``num_heads``.
        num_heads: number of heads.
        dropout: dropout probability on the attention weights.

    Shapes:
        hidden ``[batch_size, seq_len, hidden_size]``; bias broadcastable to
        ``[batch_size, num_heads, seq_len, seq_len]``, float (added to the scores) or bool (True: seen), or None;
        result as hidden.

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
        self.dropout = dropout
        self.query = Linear(hidden_size, hidden_size)
        self.key = Linear(hidden_size, hidden_size)
        self.value = Linear(hidden_size, hidden_size)
        self.output = Linear(hidden_size, hidden_size)

    def _split_heads(self, projected: Tensor) -> Tensor:
        return projected.reshape([0, 0, self.num_heads, self.head_dim])

    def forward(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the attended and projected hidden states."""
        query, key, value = (
            self._split_heads(project(hidden)) for project in (self.query, self.key, self.value)
        )
        context = ops.attention(query, key, value, bias=bias, dropout_p=self.dropout, training=self.training)
        return self.output(context.flatten(2))
