"""Classification heads: logits for inference, a fused loss for training."""

from __future__ import annotations

from typing import Any

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra import ops


class _LinearHead(nn.Layer):
    """Dropout and a linear layer, with a loss that never stores the logits."""

    def __init__(self, hidden_size: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.classifier = nn.Linear(hidden_size, num_classes)
        self.dropout = dropout

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.dropout, training=self.training) if self.dropout else hidden

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits: ``[..., hidden_size]`` to ``[..., num_classes]``."""
        return self.classifier(self._drop(hidden))

    def loss(self, hidden: Tensor, labels: Tensor, **options: Any) -> Tensor:
        """Return the cross entropy of ``forward(hidden)`` against ``labels``, without storing the logits.

        Args:
            hidden: ``[..., hidden_size]``.
            labels: int64 ``[...]``; -100 is ignored.
            options: passed on to :func:`paddle_infra.ops.linear_cross_entropy`.

        Returns:
            The mean over the labels that count, float32, 0-D.
        """
        return ops.linear_cross_entropy(
            self._drop(hidden),
            self.classifier.weight,
            labels,
            bias=self.classifier.bias,
            weight_layout="dv",
            **options,
        )


class SequenceClassificationHead(_LinearHead):
    """One label for a pooled sequence: hidden ``[batch_size, hidden_size]``, labels ``[batch_size]``."""


class TokenClassificationHead(_LinearHead):
    """One label for every token: hidden ``[batch_size, seq_len, hidden_size]``, labels ``[batch_size, seq_len]``."""
