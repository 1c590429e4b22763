"""Any number of labels for each row."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_infra import ops
from paddle_infra._core.checks import check_number, check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.heads._linear import FLOATS, LinearHead, check_hidden, check_mask, mean_over
from paddle_infra.nn.padding import zero_padding


class MultiLabelHead(LinearHead):
    r"""Any number of labels for each row: a binary decision per class.

    The loss of class :math:`c` is :math:`-q_c\, y_c \log \sigma(z_c) - (1 - y_c) \log (1 - \sigma(z_c))`, computed
    without storing the logits.

    Args:
        hidden_size: width of the input.
        num_classes: number of labels that a row may have.
        dropout: dropout probability before the linear layer.
        pos_weight: :math:`q`, one positive number per class; None is 1 for all.

    Shapes:
        hidden ``[..., hidden_size]`` to logits ``[..., num_classes]``; labels ``[..., num_classes]``, bool or float
        in [0, 1]; mask ``[...]`` or ``[..., num_classes]``.
    """

    def __init__(
        self,
        hidden_size: int,
        num_classes: int,
        dropout: float = 0.1,
        *,
        pos_weight: Sequence[float] | None = None,
    ) -> None:
        super().__init__(hidden_size, num_classes, dropout)
        if pos_weight is not None and (len(pos_weight) != num_classes or not min(pos_weight) > 0):
            raise InvalidInputError(
                f"pos_weight: expected {num_classes} positive numbers, got {list(pos_weight)}"
            )
        weights = None if pos_weight is None else paddle.to_tensor(list(pos_weight), dtype="float32")
        # Not in the state: it belongs to the loss, not to the model.
        self.register_buffer("pos_weight", weights, persistable=False)

    def predict(self, hidden: Tensor, threshold: float = 0.5) -> Tensor:
        """Return which labels are more probable than ``threshold``: bool ``[..., num_classes]``."""
        threshold = check_number("threshold", threshold, 0.0, 1.0)
        return F.sigmoid(self(hidden)) > threshold

    def topk(self, hidden: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the ``k`` most probable labels, without gradients.

        Args:
            hidden: ``[..., hidden_size]``.
            k: from 1 to the number of classes.

        Returns:
            Probabilities ``[..., k]``, each of its label alone (they do not sum to 1), the largest first, and labels
            ``[..., k]``, int64.
        """
        with paddle.no_grad():
            logit, index = paddle.topk(self(hidden), k)
            return F.sigmoid(logit), index

    def loss(self, hidden: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the mean binary cross entropy over the rows and classes that count.

        Args:
            hidden: ``[..., hidden_size]``.
            labels: ``[..., num_classes]``, bool or float in [0, 1]; anything where the mask is 0.
            mask: bool or integers, 0 = does not count: ``[...]`` for whole rows, or ``[..., num_classes]`` for single
                labels that nobody knows; the latter stores the losses (as many as logits).

        Returns:
            float32, 0-D; 0 with gradients 0 if nothing counts.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit, or a label that counts is not in [0, 1].
        """
        width, num_classes = self.classifier.weight.shape
        check_hidden(hidden, width)
        rows = list(hidden.shape[:-1])
        check_tensor("labels", labels, (*FLOATS, "bool"))
        check_shape("labels", labels, [*rows, num_classes], "[..., num_classes]")
        if mask is None:
            return self._loss(hidden, labels)
        is_per_row = mask.ndim == len(rows)
        check_mask(mask, rows if is_per_row else [*rows, num_classes], "[...] or [..., num_classes]")
        counts = (mask != 0).unsqueeze(-1) if is_per_row else mask != 0
        labels = paddle.where(counts, labels.astype(hidden.dtype), paddle.zeros([], hidden.dtype))
        if is_per_row:
            return self._loss(
                zero_padding(hidden, mask), labels, token_weight=(mask != 0).astype(hidden.dtype)
            )
        return mean_over(self._loss(hidden, labels, reduction="none"), mask)

    def _loss(
        self, hidden: Tensor, labels: Tensor, *, token_weight: Tensor | None = None, reduction: str = "mean"
    ) -> Tensor:
        return ops.linear_binary_cross_entropy(
            self._drop(hidden),
            self.classifier.weight,
            labels,
            bias=self.classifier.bias,
            pos_weight=self.pos_weight,
            token_weight=token_weight,
            reduction=reduction,  # type: ignore[arg-type]
            weight_layout="dv",
        )
