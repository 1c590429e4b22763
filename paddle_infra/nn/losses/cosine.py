"""Losses of the cosine of pairs."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.checks import check_number
from paddle_infra.nn._geometry import unit
from paddle_infra.nn.losses._arguments import check_labels, check_rows

_NEVER = -1e30
_NUMBERS = ("float32", "float64", "int64", "int32")


class CosineEmbeddingLoss(nn.Layer):
    r"""Mean of :math:`1 - \cos(a, b)` for pairs that belong together, :math:`\max(0, \cos(a, b) - m)` for others.

    Args:
        margin: :math:`m`, from -1 to 1.

    Shapes:
        first and second ``[batch_size, width]``, labels ``[batch_size]`` (1 = together, 0 or -1 = not) to a loss, 0-D.
    """

    def __init__(self, margin: float = 0.0) -> None:
        super().__init__()
        self.margin = check_number("margin", margin, -1.0, 1.0)

    def forward(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit.
        """
        check_rows("first", first)
        check_rows("second", second, first)
        check_labels("labels", labels, first, _NUMBERS)
        cosine = (unit(first) * unit(second)).sum(axis=-1)
        return paddle.where(labels > 0, 1.0 - cosine, F.relu(cosine - self.margin)).mean()


class CoSENTLoss(nn.Layer):
    r"""Ranking of pairs by their cosine: :math:`\log(1 + \sum_{y_i > y_j} \exp((\cos_j - \cos_i) / \tau))`.

    Only the order of the labels matters, so they may be grades of similarity.

    Args:
        temperature: :math:`\tau`, above 0.

    Shapes:
        first and second ``[batch_size, width]``, labels ``[batch_size]``, numbers, to a loss, 0-D. If all labels are
        equal it is 0 with gradients 0. Stores a number for each two pairs.

    References:
        Su, "CoSENT" (2022), kexue.fm/archives/8847; there 1/τ is 20.
    """

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, 1e-6)

    def forward(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit.
        """
        check_rows("first", first)
        check_rows("second", second, first)
        check_labels("labels", labels, first, _NUMBERS)
        cosine = (unit(first) * unit(second)).sum(axis=-1) / self.temperature
        difference = cosine.unsqueeze(0) - cosine.unsqueeze(1)
        is_above = labels.unsqueeze(1) > labels.unsqueeze(0)
        difference = paddle.where(is_above, difference, paddle.full([], _NEVER, cosine.dtype))
        return paddle.logsumexp(paddle.concat([paddle.zeros([1], cosine.dtype), difference.flatten()]))
