"""Reduce a sequence of hidden states to one vector. Padding never counts, wherever it is and whatever it holds."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.checks import check_choice, check_positive, check_shape
from paddle_infra.nn.padding import check_mask, take_token, zero_padding
from paddle_infra.nn.sizes import size_of

POOLINGS = ("cls", "last", "max", "mean")
_MASKED = -1e30  # a score so low that its exponential is 0, but no infinity: rows without a token stay finite


def cls_pool(hidden: Tensor) -> Tensor:
    """Return the first token's state: ``[batch_size, seq_len, hidden_size]`` to ``[batch_size, hidden_size]``."""
    return hidden[:, 0]


def mean_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean over real tokens; padding does not count.

    Args:
        hidden: ``[batch_size, seq_len, hidden_size]``.
        attention_mask: ``[batch_size, seq_len]``, 1 = token, 0 = padding. A row without any token gives zeros.

    Returns:
        ``[batch_size, hidden_size]``.
    """
    weight = attention_mask.astype(hidden.dtype).unsqueeze(-1)
    return zero_padding(hidden, attention_mask).sum(axis=1) / weight.sum(axis=1).clip(min=1.0)


def max_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the largest value of each feature over real tokens; padding never wins.

    The gradient goes to the first of equal values.

    Args:
        hidden: ``[batch_size, seq_len, hidden_size]``.
        attention_mask: ``[batch_size, seq_len]``, 1 = token, 0 = padding. A row without any token gives zeros.

    Returns:
        ``[batch_size, hidden_size]``.
    """
    mask = attention_mask.astype("bool").unsqueeze(-1)
    lowest = paddle.full_like(hidden, paddle.finfo(hidden.dtype).min)
    # Not max(): on the CPU its gradient takes a hundred times as long.
    chosen = paddle.where(mask, hidden, lowest).detach().argmax(axis=1, keepdim=True)
    largest = paddle.take_along_axis(hidden, chosen, axis=1).squeeze(1)
    return paddle.where(mask.any(axis=1), largest, paddle.zeros_like(largest))


def last_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the state of the last real token, as for causal models; padding may be on either side.

    Args:
        hidden: ``[batch_size, seq_len, hidden_size]``.
        attention_mask: ``[batch_size, seq_len]``, 1 = token, 0 = padding. A row without any token gives zeros.

    Returns:
        ``[batch_size, hidden_size]``.
    """
    position = paddle.arange(1, size_of(hidden, 1) + 1, dtype="int64") * (attention_mask != 0).astype("int64")
    return take_token(hidden, (position == position.max(axis=1, keepdim=True)) & (position > 0))


class Pooling(nn.Layer):
    """One of the pooling functions, chosen by name.

    Args:
        kind: ``"cls"`` (:func:`cls_pool`), ``"last"`` (:func:`last_pool`), ``"max"`` (:func:`max_pool`) or
            ``"mean"`` (:func:`mean_pool`).

    Shapes:
        hidden ``[batch_size, seq_len, hidden_size]``, attention_mask ``[batch_size, seq_len]`` or None (no padding)
        to ``[batch_size, hidden_size]``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        check_choice("kind", kind, POOLINGS)
        self.kind = kind

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the pooled sequence."""
        if self.kind == "cls":
            return cls_pool(hidden)
        if attention_mask is None:
            attention_mask = paddle.ones_like(hidden[:, :, 0]).astype("bool")
        check_mask(attention_mask, hidden)
        pool = {"last": last_pool, "max": max_pool, "mean": mean_pool}[self.kind]
        return pool(hidden, attention_mask)


class AttentionPooling(nn.Layer):
    r"""Mean weighted by a learned query, :math:`\sum_t a_t h_t` with :math:`a_t \propto \exp(u^\top \tanh(W h_t + b))`.

    With several heads each has its own query :math:`u` and the results stand side by side.

    Args:
        hidden_size: width of the states.
        attention_size: width of the scoring layer; None: ``hidden_size``.
        num_heads: number of queries.

    Shapes:
        hidden ``[batch_size, seq_len, hidden_size]``, attention_mask ``[batch_size, seq_len]`` or None (no padding)
        to ``[batch_size, num_heads * hidden_size]``. A row without any token gives zeros.

    References:
        Lin et al., "A Structured Self-attentive Sentence Embedding", arXiv:1703.03130, section 2.1; their penalty
        on equal heads is not included, and W has a bias as in Yang et al., "Hierarchical Attention Networks" (2016).
    """

    def __init__(self, hidden_size: int, attention_size: int | None = None, num_heads: int = 1) -> None:
        super().__init__()
        attention_size = hidden_size if attention_size is None else attention_size
        check_positive("hidden_size", hidden_size)
        check_positive("attention_size", attention_size)
        check_positive("num_heads", num_heads)
        self.hidden_size = hidden_size
        self.key = nn.Linear(hidden_size, attention_size)
        self.query = nn.Linear(attention_size, num_heads, bias_attr=False)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the pooled sequence."""
        check_shape("hidden", hidden, [-1, -1, self.hidden_size], "[batch_size, seq_len, hidden_size]")
        if attention_mask is not None:
            check_mask(attention_mask, hidden)
            hidden = zero_padding(hidden, attention_mask)
        weight = F.softmax(self._scores(hidden, attention_mask), axis=1)
        return paddle.matmul(zero_padding(weight, attention_mask), hidden, transpose_x=True).flatten(1)

    def _scores(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        scores = self.query(F.tanh(self.key(hidden)))
        if attention_mask is None:
            return scores
        mask = attention_mask.astype("bool").unsqueeze(-1)
        return paddle.where(mask, scores, paddle.full_like(scores, _MASKED))
