"""The loss of models that predict clicks."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.jit.marker import unified

from paddle_infra._core.checks import check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError


def click_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross entropy of logits ``[batch_size]``.

    Raises:
        InvalidDtypeError: labels are neither bool nor float.
        InvalidInputError: labels have another shape, or (in dynamic mode) one is not in [0, 1].
    """
    _check(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels.astype(logits.dtype))


def _check(logits: Tensor, labels: Tensor) -> None:
    check_tensor("labels", labels, ("bool", "float32", "float64"))
    check_shape("labels", labels, logits.shape, "[batch_size]")
    if paddle.in_dynamic_mode() and labels.dtype != paddle.bool:
        values = labels.numpy()
        is_bad = ~((values >= 0) & (values <= 1))  # a NaN too
        if is_bad.any():
            raise InvalidInputError(f"labels: expected numbers in [0, 1], got {values[is_bad][0]:g}")


# Graph capture shall call it as it is: it is about what is known before a program runs.
unified(_check)
