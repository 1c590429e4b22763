"""Triplet losses: an anchor is nearer to its positive than to a negative, by a margin."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.checks import check_choice, check_number
from paddle_infra.nn._geometry import root, unit
from paddle_infra.nn.losses._arguments import check_labels, check_rows

_DISTANCES = ("euclidean", "squared", "cosine")
_FAR = 1e30


class TripletLoss(nn.Layer):
    r"""Mean of :math:`\max(0, d(a, p) - d(a, n) + m)` over given triplets.

    Args:
        margin: :math:`m`, at least 0; None for the soft margin :math:`\log(1 + \exp(d(a, p) - d(a, n)))`.
        distance: ``"euclidean"``, ``"squared"`` (its square) or ``"cosine"`` (1 - cosine).

    Shapes:
        anchor, positive, negative ``[batch_size, width]`` to a loss, 0-D.

    References:
        Schroff et al., "FaceNet", arXiv:1503.03832, section 3.1.
    """

    def __init__(self, margin: float | None = 0.2, *, distance: str = "euclidean") -> None:
        super().__init__()
        check_choice("distance", distance, _DISTANCES)
        self.margin = None if margin is None else check_number("margin", margin, 0.0)
        self.distance = distance

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the mean loss.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit.
        """
        check_rows("anchor", anchor)
        check_rows("positive", positive, anchor)
        check_rows("negative", negative, anchor)
        return _hinge(self._between(anchor, positive) - self._between(anchor, negative), self.margin).mean()

    def _between(self, a: Tensor, b: Tensor) -> Tensor:
        if self.distance == "cosine":
            return 1.0 - (unit(a) * unit(b)).sum(axis=-1)
        squared = (a - b).square().sum(axis=-1)
        return root(squared) if self.distance == "euclidean" else squared


class BatchHardTripletLoss(nn.Layer):
    r"""Triplet loss with the hardest triplet of each row: the farthest of its label, the nearest of another.

    Args:
        margin: as for :class:`TripletLoss`.
        distance: as for :class:`TripletLoss`.

    Shapes:
        features ``[batch_size, width]``, labels int64 ``[batch_size]``, to a loss, 0-D: the mean over the rows that
        have both another row of their label and one of another; 0 with gradients 0 if there are none. Rows labelled
        -100 are left out everywhere. Distances of all pairs are stored.

    References:
        Hermans et al., arXiv:1703.07737, equation 5.
    """

    def __init__(self, margin: float | None = 0.2, *, distance: str = "euclidean") -> None:
        super().__init__()
        check_choice("distance", distance, _DISTANCES)
        self.margin = None if margin is None else check_number("margin", margin, 0.0)
        self.distance = distance

    def forward(self, features: Tensor, labels: Tensor, *, ignore_index: int = -100) -> Tensor:
        """Return the mean loss.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit.
        """
        check_rows("features", features)
        check_labels("labels", labels, features)
        counts = labels != ignore_index
        distance = self._between_all(features)
        is_pair = counts.unsqueeze(1) & counts.unsqueeze(0)
        is_same = labels.unsqueeze(1) == labels.unsqueeze(0)
        ones = paddle.ones_like(distance)
        is_other_row = paddle.tril(ones, -1) + paddle.triu(ones, 1) > 0
        is_positive, is_negative = is_pair & is_same & is_other_row, is_pair & ~is_same
        far = paddle.full([], _FAR, distance.dtype)
        # The gradient goes to one of several equal pairs, as argmax chooses.
        positive = _pick(distance, paddle.where(is_positive, distance, -far).argmax(axis=1))
        negative = _pick(distance, paddle.where(is_negative, distance, far).argmin(axis=1))
        has_both = is_positive.any(axis=1) & is_negative.any(axis=1)
        loss = _hinge(positive - negative, self.margin)
        loss = paddle.where(has_both, loss, paddle.zeros_like(loss))
        return loss.sum() / has_both.astype(loss.dtype).sum().clip(min=1.0)

    def _between_all(self, features: Tensor) -> Tensor:
        if self.distance == "cosine":
            rows = unit(features)
            return 1.0 - paddle.matmul(rows, rows, transpose_y=True)
        # Differences, not |a|² + |b|² - 2 ab: near pairs would lose all digits, and they are what is looked for.
        squared = (features.unsqueeze(1) - features.unsqueeze(0)).square().sum(axis=-1)
        return root(squared) if self.distance == "euclidean" else squared


def _pick(distance: Tensor, column: Tensor) -> Tensor:
    return paddle.take_along_axis(distance, column.unsqueeze(-1), axis=1).squeeze(-1)


def _hinge(difference: Tensor, margin: float | None) -> Tensor:
    if margin is None:
        return -F.log_sigmoid(-difference)  # log(1 + exp(x)) for any x
    return F.relu(difference + margin)
