"""What heads of one linear layer share."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.jit.marker import unified

from paddle_infra import ops
from paddle_infra._core.checks import UNKNOWN, check_positive, check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError

FLOATS = ("float32", "float64", "float16", "bfloat16")


class LinearHead(nn.Layer):
    """Dropout and a linear layer."""

    def __init__(self, hidden_size: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        check_positive("hidden_size", hidden_size)
        check_positive("num_classes", num_classes)
        self.classifier = nn.Linear(hidden_size, num_classes)
        self.dropout = dropout

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.dropout, training=self.training) if self.dropout else hidden

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits: ``[..., hidden_size]`` to ``[..., num_classes]``."""
        return self.classifier(self._drop(hidden))

    def topk(self, hidden: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the ``k`` most probable classes, without storing the logits of all rows and without gradients.

        Args:
            hidden: ``[..., hidden_size]``.
            k: from 1 to the number of classes.

        Returns:
            Probabilities ``[..., k]``, the largest first, and classes ``[..., k]``, int64; see
            :func:`paddle_infra.ops.linear_topk`.
        """
        with paddle.no_grad():
            return ops.linear_topk(
                self._drop(hidden),
                self.classifier.weight,
                k,
                bias=self.classifier.bias,
                weight_layout="dv",
            )


def check_hidden(hidden: Any, hidden_size: int, axes: str | None = None) -> None:
    """Raise unless ``hidden`` is a float tensor ``[..., hidden_size]``, with exactly the ``axes`` if they are named.

    Raises:
        InvalidDtypeError: it is no tensor, or has another dtype.
        InvalidInputError: its shape differs.
    """
    check_tensor("hidden", hidden, FLOATS)
    if axes is not None:
        count = axes.count(",") + 1
        check_shape("hidden", hidden, [UNKNOWN] * (count - 1) + [hidden_size], axes)
    elif hidden.ndim < 1 or hidden.shape[-1] not in (hidden_size, UNKNOWN):
        raise InvalidInputError(
            f"hidden: expected shape [..., {hidden_size}] ([..., hidden_size]), got {list(hidden.shape)}"
        )


def check_mask(mask: Any, shape: list[int], meaning: str) -> None:
    """Raise unless ``mask`` is None or a bool or integer tensor of this shape."""
    if mask is not None:
        check_tensor("mask", mask, ("bool", "int64", "int32"))
        check_shape("mask", mask, shape, meaning)


def check_classes(labels: Any, shape: list[int], num_classes: int, ignore_index: int) -> None:
    """Raise unless ``labels`` are classes, or ``ignore_index``, of this shape.

    Raises:
        InvalidDtypeError: they are no integers.
        InvalidInputError: another shape or, in dynamic mode, a class out of range.
    """
    check_tensor("labels", labels, ("int64", "int32"))
    check_shape("labels", labels, shape, "hidden without its last axis")
    if not paddle.in_dynamic_mode():
        return
    is_bad = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)
    if bool(is_bad.any()):
        wrong = int(labels[is_bad][0])
        raise InvalidInputError(
            f"labels: expected ignore_index ({ignore_index}) or a class in [0, {num_classes}), got {wrong}"
        )


# Paddle's graph capture shall call them as they are, not rewrite their source: they are about what is known before
# a program runs.
for _check in (check_hidden, check_mask, check_classes):
    unified(_check)


def mean_over(loss: Tensor, counts: Tensor | None) -> Tensor:
    """Return the mean of the losses where ``counts`` is not 0, 0 with gradients 0 if there are none; 0-D."""
    if counts is None:
        return loss.mean()
    is_counted = counts != 0
    # where, not a product with 0: what does not count may be infinite.
    total = paddle.where(is_counted, loss, paddle.zeros_like(loss)).sum()
    return total / is_counted.astype(loss.dtype).sum().clip(min=1.0)
