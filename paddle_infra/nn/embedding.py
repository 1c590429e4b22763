"""Input embeddings of Transformers."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.checks import check_integer, check_number, check_positive, check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.positions import LearnedPositions, SinusoidalPositions, check_positions, next_positions


class TransformerEmbedding(nn.Layer):
    """Word + learned position + token-type (+ task) embedding, LayerNorm, dropout: the input of an encoder.

    Args:
        vocab_size: number of word pieces.
        hidden_size: width of the embedding.
        max_positions: rows of the table of positions, ``position_offset`` included; 0: no positions.
        type_vocab_size: number of token types; 0: none.
        dropout: dropout probability after the norm.
        epsilon: added to the variance in LayerNorm.
        position_offset: row of the first token's position (``padding_idx + 1`` in RoBERTa's checkpoints).
        task_type_vocab_size: number of tasks that have an embedding, as in ERNIE 3.0; 0: none. Needs token types.
        task_id: the task if none is given.

    Shapes:
        input_ids, token_type_ids and task_type_ids int64 ``[batch_size, seq_len]`` to float32
        ``[batch_size, seq_len, hidden_size]``. No token types means type 0 everywhere. position_ids
        ``[batch_size, seq_len]`` or ``[seq_len]`` are rows as they are; without them, tokens have the rows from
        ``position_offset`` on.

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
        position_offset: int = 0,
        task_type_vocab_size: int = 0,
        task_id: int = 0,
    ) -> None:
        super().__init__()
        if task_type_vocab_size and not type_vocab_size:
            raise InvalidInputError("task types: expected token types beside them, got type_vocab_size=0")
        if task_type_vocab_size and not 0 <= check_integer("task_id", task_id) < task_type_vocab_size:
            raise InvalidInputError(
                f"task_id: expected a number in [0, {task_type_vocab_size}), got {task_id}"
            )
        if not 0 <= check_integer("position_offset", position_offset) < max(max_positions, 1):
            raise InvalidInputError(
                f"position_offset: expected a row of the {max_positions} positions, got {position_offset}"
            )
        self.word = nn.Embedding(vocab_size, hidden_size)
        self.position = nn.Embedding(max_positions, hidden_size) if max_positions else None
        self.token_type = nn.Embedding(type_vocab_size, hidden_size) if type_vocab_size else None
        self.task_type = nn.Embedding(task_type_vocab_size, hidden_size) if task_type_vocab_size else None
        self.norm = nn.LayerNorm(hidden_size, epsilon=epsilon)
        self.epsilon = epsilon
        self.dropout = dropout
        self.position_offset = position_offset
        self.task_id = task_id

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        task_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the embedded sequence."""
        types, type_ids = self._types(input_ids, token_type_ids, task_type_ids)
        if self.position_offset and position_ids is None:
            position_ids = next_positions(input_ids) + self.position_offset
        return ops.embedding_norm(
            input_ids,
            self.word.weight,
            None if self.position is None else self.position.weight,
            types,
            self.norm.weight,
            self.norm.bias,
            position_ids=position_ids,
            token_type_ids=type_ids,
            epsilon=self.epsilon,
            dropout_p=self.dropout,
            training=self.training,
        )

    def _types(
        self, input_ids: Tensor, token_type_ids: Tensor | None, task_type_ids: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return one table of types, and indices into it: with tasks, of the sums of a token type and a task."""
        if task_type_ids is not None and self.task_type is None:
            raise InvalidInputError(
                "task_type_ids: expected None, there are no task embeddings, got a tensor"
            )
        if self.token_type is None:
            return None, token_type_ids
        types = self.token_type.weight
        if self.task_type is None:
            return types, token_type_ids
        tasks = self.task_type.weight
        if task_type_ids is None:
            return types + tasks[self.task_id], token_type_ids
        count = tasks.shape[0]
        # Checked here: an index of the sums could be that of another pair.
        if paddle.in_dynamic_mode() and not bool(((task_type_ids >= 0) & (task_type_ids < count)).all()):
            found = f"{int(task_type_ids.min())} to {int(task_type_ids.max())}"
            raise InvalidInputError(f"task_type_ids: expected numbers in [0, {count}), got {found}")
        sums = (types.unsqueeze(1) + tasks.unsqueeze(0)).reshape([-1, types.shape[1]])
        if token_type_ids is None:
            token_type_ids = paddle.zeros_like(input_ids)
        return sums, token_type_ids * count + task_type_ids


class TokenEmbedding(nn.Layer):
    r"""Word embedding, scaled, + position embedding, dropout: the input of an encoder-decoder or a language model.

    :math:`\mathrm{dropout}(\mathrm{scale} \cdot \mathrm{word}[\mathrm{id}] + \mathrm{position}[m])`.

    Args:
        vocab_size: number of word pieces.
        hidden_size: width of the embedding.
        positions: embeds positions; None: no positions (for rotary ones or ALiBi).
        scale: of the word embedding, often :math:`\sqrt{\mathrm{hidden\_size}}`.
        dropout: dropout probability.

    Shapes:
        input_ids int ``[batch_size, seq_len]`` to ``[batch_size, seq_len, hidden_size]``.

    References:
        Vaswani et al., arXiv:1706.03762, sections 3.4 and 3.5.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        *,
        positions: SinusoidalPositions | LearnedPositions | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("vocab_size", vocab_size)
        check_positive("hidden_size", hidden_size)
        if positions is not None and positions.hidden_size != hidden_size:
            raise InvalidInputError(
                f"positions: expected hidden_size {hidden_size}, got {positions.hidden_size}"
            )
        self.word = nn.Embedding(vocab_size, hidden_size)
        self.positions = positions
        self.scale = check_number("scale", scale)
        self.dropout = dropout

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> Tensor:
        """Return the embedded sequence.

        Args:
            input_ids: see above.
            position_ids: int ``[batch_size, seq_len]`` or ``[seq_len]``; None: 0, 1, … after ``lengths``.
            lengths: int ``[batch_size]``: how many tokens came before (``lengths`` of a :class:`DecoderCache`).

        Raises:
            InvalidInputError: shapes do not fit, a position is out of range, or both arguments are given.
            InvalidDtypeError: an argument is no tensor of integers.
        """
        check_tensor("input_ids", input_ids, ("int32", "int64"))
        check_shape("input_ids", input_ids, [-1, -1], "[batch_size, seq_len]")
        if position_ids is not None and lengths is not None:
            raise InvalidInputError("lengths: expected None when position_ids are given, got a tensor")
        if position_ids is not None:
            check_positions(position_ids, input_ids)
        embedded = self.word(input_ids)
        if self.scale != 1.0:
            embedded = embedded * self.scale
        if self.positions is not None:
            embedded = embedded + self.positions(
                next_positions(input_ids, lengths) if position_ids is None else position_ids
            )
        return F.dropout(embedded, self.dropout, training=self.training) if self.dropout else embedded
