"""One class for each row: cross entropy and focal loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_infra import ops
from paddle_infra._core.checks import check_number
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.heads._linear import LinearHead


class _ClassificationHead(LinearHead):
    """Dropout and a linear layer, with a loss that never stores the logits.

    With ``groups`` the head learns fine classes and predicts coarse ones: fine class *i* belongs to coarse class
    ``groups[i]``, and a coarse logit is the log of the summed exponentials of its fine logits, so that the coarse
    probabilities are the sums of the fine ones.
    """

    def __init__(
        self, hidden_size: int, num_classes: int, dropout: float = 0.1, *, groups: Sequence[int] | None = None
    ) -> None:
        super().__init__(hidden_size, num_classes, dropout)
        self.has_groups = groups is not None
        if groups is not None:
            if len(groups) != num_classes or sorted(set(groups)) != list(range(max(groups) + 1)):
                raise InvalidInputError(
                    f"groups: expected a coarse class, counted from 0 without gaps, for each of {num_classes} fine "
                    f"ones, got {list(groups)}"
                )
            membership = np.eye(max(groups) + 1, dtype=np.float32)[list(groups)]
            self.register_buffer("membership", paddle.to_tensor(membership), persistable=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits: ``[..., hidden_size]`` to ``[..., num_classes]``, or the number of coarse classes."""
        logits = self.classifier(self._drop(hidden))
        if not self.has_groups:
            return logits
        largest = logits.max(axis=-1, keepdim=True)
        return paddle.log(paddle.matmul(paddle.exp(logits - largest), self.membership)) + largest

    def topk(self, hidden: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the ``k`` most probable classes (coarse ones, if there are groups), without gradients.

        Args:
            hidden: ``[..., hidden_size]``.
            k: from 1 to the number of classes.

        Returns:
            Probabilities ``[..., k]``, the largest first, and classes ``[..., k]``, int64. Without groups the
            logits of all rows are never stored; see :func:`paddle_infra.ops.linear_topk`.
        """
        if not self.has_groups:
            return super().topk(hidden, k)
        with paddle.no_grad():
            prob, index = paddle.topk(F.softmax(self(hidden), axis=-1), k)
        return prob, index

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


class SequenceClassificationHead(_ClassificationHead):
    """One label for a pooled sequence: hidden ``[batch_size, hidden_size]``, labels ``[batch_size]``."""


class TokenClassificationHead(_ClassificationHead):
    """One label for every token: hidden ``[batch_size, seq_len, hidden_size]``, labels ``[batch_size, seq_len]``."""


class FocalClassificationHead(_ClassificationHead):
    r"""One label for every row, learned with the focal loss :math:`-w_y (1 - p_y)^\gamma \log p_y`.

    For classes of very different sizes: rows that are already right count less. Logits and top-k are those of the
    other classification heads.

    Args:
        hidden_size: width of the input.
        num_classes: number of (fine) classes.
        dropout: dropout probability before the linear layer.
        gamma: :math:`\gamma`; 0 is cross entropy.
        groups: coarse class of each fine one, as for the other classification heads.

    Shapes:
        hidden ``[..., hidden_size]``, labels int64 ``[...]``, -100 = ignored.

    References:
        Lin et al., arXiv:1708.02002, section 3, for one class of many; see :func:`paddle_infra.ops.linear_focal`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_classes: int,
        dropout: float = 0.1,
        *,
        gamma: float = 2.0,
        groups: Sequence[int] | None = None,
    ) -> None:
        super().__init__(hidden_size, num_classes, dropout, groups=groups)
        self.gamma = check_number("gamma", gamma, 0.0)

    def loss(self, hidden: Tensor, labels: Tensor, **options: Any) -> Tensor:
        """Return the mean focal loss over the labels that count (0-D); the logits are never stored.

        Args:
            hidden: ``[..., hidden_size]``.
            labels: int64 ``[...]``; -100 is ignored.
            options: passed on to :func:`paddle_infra.ops.linear_focal`, for instance ``class_weight``.
        """
        return ops.linear_focal(
            self._drop(hidden),
            self.classifier.weight,
            labels,
            gamma=self.gamma,
            bias=self.classifier.bias,
            weight_layout="dv",
            **options,
        )
