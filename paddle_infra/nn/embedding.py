"""Input embeddings of Transformer encoders."""

from __future__ import annotations

from paddle import Tensor, nn

from paddle_infra import ops


class TransformerEmbedding(nn.Layer):
    """Word + learned position + token-type embedding, LayerNorm, dropout.

    Args:
        vocab_size: number of word pieces.
        hidden_size: width of the embedding.
        max_positions: longest sequence.
        type_vocab_size: number of token types.
        dropout: dropout probability after the norm.
        epsilon: added to the variance in LayerNorm.

    Shapes:
        input_ids and token_type_ids int64 ``[batch_size, seq_len]`` to float32
        ``[batch_size, seq_len, hidden_size]``. No token types means type 0 everywhere.

    References:
        Devlin et al., "BERT", arXiv:1810.04805, figure 2.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        max_positions: int,
        type_vocab_size: int,
        *,
        dropout: float = 0.1,
        epsilon: float = 1e-12,
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(vocab_size, hidden_size)
        self.position = nn.Embedding(max_positions, hidden_size)
        self.token_type = nn.Embedding(type_vocab_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, epsilon=epsilon)
        self.epsilon = epsilon
        self.dropout = dropout

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return the embedded sequence."""
        return ops.embedding_norm(
            input_ids,
            self.word.weight,
            self.position.weight,
            self.token_type.weight,
            self.norm.weight,
            self.norm.bias,
            token_type_ids=token_type_ids,
            epsilon=self.epsilon,
            dropout_p=self.dropout,
            training=self.training,
        )
