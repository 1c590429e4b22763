"""Extractive question answering: where an answer starts and ends."""

from __future__ import annotations

from typing import NamedTuple

import paddle
from paddle import Tensor

from paddle_infra._core.checks import check_positive, check_shape, check_tensor
from paddle_infra.nn.heads._linear import LinearHead, check_hidden, check_mask, mean_over
from paddle_infra.nn.padding import zero_padding
from paddle_infra.nn.sizes import size_of

_NEVER = -1e30  # a logit whose exponential is 0, and of which two can be added


class Spans(NamedTuple):
    """The best answer of each row.

    Attributes:
        start: first token, int64 ``[batch_size]``; 0 if no token may be one.
        end: last token (included), int64 ``[batch_size]``.
        score: sum of the logits of both, ``[batch_size]``; -inf if no token may be one.
        null_score: sum of the logits of the first token, which stands for "no answer". Usual is to answer if
            ``score - null_score`` is above a threshold that was chosen on held-out data.
    """

    start: Tensor
    end: Tensor
    score: Tensor
    null_score: Tensor


class SpanHead(LinearHead):
    """Start and end of an answer within a sequence: two logits per token, each with a softmax over the sequence.

    The first token ([CLS]) stands for "no answer": it may always be start and end in the softmax, and is never part
    of a span that :meth:`decode` finds.

    Args:
        hidden_size: width of the input.
        dropout: dropout probability before the linear layer.

    Shapes:
        hidden ``[batch_size, seq_len, hidden_size]`` to logits ``[batch_size, seq_len, 2]`` (start, end); start and
        end int64 ``[batch_size]``; mask ``[batch_size, seq_len]``, not 0 where an answer may be: neither at the
        question nor at separators nor at padding.

    References:
        Devlin et al., "BERT", arXiv:1810.04805, sections 4.2 and 4.3.
    """

    def __init__(self, hidden_size: int, dropout: float = 0.1) -> None:
        super().__init__(hidden_size, 2, dropout)

    def _masked(self, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        check_hidden(hidden, self.classifier.weight.shape[0], "[batch_size, seq_len, hidden_size]")
        check_mask(mask, list(hidden.shape[:2]), "[batch_size, seq_len]")
        if mask is None:
            start, end = self(hidden).unbind(axis=-1)
            return start, end, None
        inside = mask != 0
        is_first = paddle.zeros_like(inside)
        is_first = paddle.concat([paddle.ones_like(is_first[:, :1]), is_first[:, 1:]], axis=1)
        allowed = inside | is_first
        start, end = self(zero_padding(hidden, allowed)).unbind(axis=-1)
        never = paddle.full([], _NEVER, start.dtype)
        return paddle.where(allowed, start, never), paddle.where(allowed, end, never), allowed

    def loss(self, hidden: Tensor, start: Tensor, end: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the mean of the cross entropies of the start and of the end.

        Each is a mean over the rows whose position counts: one that is negative, beyond the sequence, or where the
        mask is 0 (the answer was cut off) is left out.

        Args:
            hidden: ``[batch_size, seq_len, hidden_size]``.
            start: first token of the answer, int64 ``[batch_size]``; 0 for no answer.
            end: last token (included), int64 ``[batch_size]``; 0 for no answer.
            mask: bool or integers ``[batch_size, seq_len]``, see the class; None allows every token.

        Returns:
            0-D; 0 with gradients 0 if no position counts.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit.
        """
        start_logits, end_logits, allowed = self._masked(hidden, mask)
        for name, position in (("start", start), ("end", end)):
            check_tensor(name, position, ("int64", "int32"))
            check_shape(name, position, [hidden.shape[0]], "[batch_size]")
        return 0.5 * (_position_loss(start_logits, start, allowed) + _position_loss(end_logits, end, allowed))

    def decode(self, hidden: Tensor, *, mask: Tensor | None = None, max_answer_length: int = 30) -> Spans:
        """Return the span of each row with the largest sum of start and end logit, without gradients.

        Args:
            hidden: ``[batch_size, seq_len, hidden_size]``.
            mask: bool or integers ``[batch_size, seq_len]``, see the class; None allows every token but the first.
                Only start and end are looked at: a span may reach over tokens that are not allowed.
            max_answer_length: most tokens in a span.

        Returns:
            :class:`Spans`; of equal ones the first, the shorter before the longer.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit.
        """
        check_positive("max_answer_length", max_answer_length)
        with paddle.no_grad():
            start, end, _ = self._masked(hidden, mask)
            null_score = start[:, 0] + end[:, 0]
            never = paddle.full_like(start[:, :1], _NEVER)
            start = paddle.concat([never, start[:, 1:]], axis=1)
            score, place = self._best(start, end, never, max_answer_length)
            is_none = score <= 0.5 * _NEVER
            first = paddle.where(is_none, paddle.zeros_like(place), place // max_answer_length)
            last = paddle.where(is_none, paddle.zeros_like(place), first + place % max_answer_length)
            score = paddle.where(is_none, paddle.full([], -float("inf"), score.dtype), score)
        return Spans(first, last, score, null_score)

    @staticmethod
    def _best(start: Tensor, end: Tensor, never: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return the best score of each row and its place, ``start * length + end - start``."""
        # Windows of `length` ends for each start, [batch_size, seq_len, length]: not all pairs of the sequence.
        ends = paddle.concat([end, never.expand([-1, length])], axis=1)
        windows = paddle.arange(size_of(start, 1)).unsqueeze(1) + paddle.arange(length)
        of_window = paddle.index_select(ends, windows.flatten(), axis=1).reshape([0, -1, length])
        scores = (start.unsqueeze(-1) + of_window).flatten(1)
        return scores.max(axis=1), scores.argmax(axis=1)


def _position_loss(logits: Tensor, position: Tensor, allowed: Tensor | None) -> Tensor:
    position = position.astype("int64")
    counts = (position >= 0) & (position < size_of(logits, 1))
    position = paddle.where(counts, position, paddle.zeros_like(position)).unsqueeze(-1)
    if allowed is not None:
        counts = counts & paddle.take_along_axis(allowed.astype("int64"), position, axis=1).squeeze(
            -1
        ).astype("bool")
    target = paddle.take_along_axis(logits, position, axis=1).squeeze(-1)
    return mean_over(paddle.logsumexp(logits, axis=1) - target, counts)
