"""Reduce a sequence of hidden states to one vector."""

from __future__ import annotations

from paddle import Tensor


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
    return (hidden * weight).sum(axis=1) / weight.sum(axis=1).clip(min=1.0)
