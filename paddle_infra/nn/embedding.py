"""Input embeddings of Transformer encoders."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.errors import InvalidInputError


class TransformerEmbedding(nn.Layer):
    """Word + learned position + token-type (+ task) embedding, LayerNorm, dropout.

    Args:
        vocab_size: number of word pieces.
        hidden_size: width of the embedding.
        max_positions: longest sequence.
        type_vocab_size: number of token types; 0: no such embedding, and token types are not used.
        dropout: dropout probability after the norm.
        epsilon: added to the variance in LayerNorm.
        task_type_vocab_size: number of tasks that have an embedding, as in ERNIE 3.0; 0: none. Needs token types.
        task_id: the task if none is given.

    Shapes:
        input_ids, token_type_ids, position_ids and task_type_ids int64 ``[batch_size, seq_len]`` to float32
        ``[batch_size, seq_len, hidden_size]``. No token types means type 0 everywhere, no positions 0, 1, 2, ….

    References:
        Devlin et al., "BERT", arXiv:1810.04805, figure 2; Sun et al., "ERNIE 3.0", arXiv:2107.02137.
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
        task_type_vocab_size: int = 0,
        task_id: int = 0,
    ) -> None:
        super().__init__()
        if task_type_vocab_size and not type_vocab_size:
            raise InvalidInputError("task types: expected token types beside them, got type_vocab_size=0")
        self.word = nn.Embedding(vocab_size, hidden_size)
        self.position = nn.Embedding(max_positions, hidden_size)
        if type_vocab_size:
            self.token_type = nn.Embedding(type_vocab_size, hidden_size)
        if task_type_vocab_size:
            self.task_type = nn.Embedding(task_type_vocab_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, epsilon=epsilon)
        self.epsilon = epsilon
        self.dropout = dropout
        self.type_vocab_size, self.task_type_vocab_size = type_vocab_size, task_type_vocab_size
        self.task_id = task_id

    def _types(
        self, input_ids: Tensor, token_type_ids: Tensor | None, task_type_ids: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return one table of types, and indices into it: with tasks, of the sums of a token type and a task."""
        if not self.type_vocab_size:
            return None, None
        types = self.token_type.weight
        if not self.task_type_vocab_size:
            return types, token_type_ids
        tasks = self.task_type.weight
        if task_type_ids is None:
            return types + tasks[self.task_id], token_type_ids
        if paddle.in_dynamic_mode() and not bool(
            ((task_type_ids >= 0) & (task_type_ids < self.task_type_vocab_size)).all()
        ):
            raise InvalidInputError(
                f"task_type_ids: expected numbers in [0, {self.task_type_vocab_size}), "
                f"got {int(task_type_ids.min())} to {int(task_type_ids.max())}"
            )
        sums = (types.unsqueeze(1) + tasks.unsqueeze(0)).reshape([-1, types.shape[1]])
        if token_type_ids is None:
            token_type_ids = paddle.zeros_like(input_ids)
        return sums, token_type_ids * self.task_type_vocab_size + task_type_ids

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        task_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the embedded sequence."""
        if task_type_ids is not None and not self.task_type_vocab_size:
            raise InvalidInputError(
                "task_type_ids: expected None, there are no task embeddings, got a tensor"
            )
        types, type_ids = self._types(input_ids, token_type_ids, task_type_ids)
        return ops.embedding_norm(
            input_ids,
            self.word.weight,
            self.position.weight,
            types,
            self.norm.weight,
            self.norm.bias,
            position_ids=position_ids,
            token_type_ids=type_ids,
            epsilon=self.epsilon,
            dropout_p=self.dropout,
            training=self.training,
        )
