"""Classification heads: logits for inference, a fused loss for training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.errors import InvalidInputError


class _LinearHead(nn.Layer):
    """Dropout and a linear layer, with a loss that never stores the logits.

    With ``groups`` the head learns fine classes and predicts coarse ones: fine class *i* belongs to coarse class
    ``groups[i]``, and a coarse logit is the log of the summed exponentials of its fine logits, so that the coarse
    probabilities are the sums of the fine ones.
    """

    def __init__(
        self, hidden_size: int, num_classes: int, dropout: float = 0.1, *, groups: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.classifier = nn.Linear(hidden_size, num_classes)
        self.dropout = dropout
        self.has_groups = groups is not None
        if groups is not None:
            if len(groups) != num_classes or sorted(set(groups)) != list(range(max(groups) + 1)):
                raise InvalidInputError(
                    f"groups: expected a coarse class, counted from 0 without gaps, for each of {num_classes} fine "
                    f"ones, got {list(groups)}"
                )
            membership = np.eye(max(groups) + 1, dtype=np.float32)[list(groups)]
            self.register_buffer("membership", paddle.to_tensor(membership), persistable=False)

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.dropout, training=self.training) if self.dropout else hidden

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits: ``[..., hidden_size]`` to ``[..., num_classes]``, or the number of coarse classes."""
        logits = self.classifier(self._drop(hidden))
        if not self.has_groups:
            return logits
        largest = logits.max(axis=-1, keepdim=True)
        return paddle.log(paddle.matmul(paddle.exp(logits - largest), self.membership)) + largest

    def loss(self, hidden: Tensor, labels: Tensor, **options: Any) -> Tensor:
        """Return the cross entropy of the (fine) classes against ``labels``, without storing the logits.

        Args:
            hidden: ``[..., hidden_size]``.
            labels: int64 ``[...]``, fine classes if there are groups; -100 is ignored.
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
