"""Contrastive loss with labels: all of the same class belong together."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from paddle_infra._core.checks import check_number
from paddle_infra.nn._geometry import unit
from paddle_infra.nn.losses._arguments import check_labels, check_rows

_NEVER = -1e30


class SupervisedContrastiveLoss(nn.Layer):
    r"""Contrastive loss in which all rows of the same label are partners.

    With vectors :math:`z_i` of length 1, the other rows :math:`A(i)` of the batch, and those of the same label,
    :math:`P(i)`,

    .. math::
        l_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log \frac{\exp(z_i \cdot z_p / \tau)}
              {\sum_{a \in A(i)} \exp(z_i \cdot z_a / \tau)}

    averaged over the rows that have a partner. The similarities of the batch are stored.

    Args:
        temperature: :math:`\tau`, above 0.

    Shapes:
        features ``[batch_size, width]``, labels int64 ``[batch_size]``, to a loss, 0-D; 0 with gradients 0 if no row
        has a partner. Rows labelled -100 are left out everywhere.

    References:
        Khosla et al., arXiv:2004.11362, equation 2 (the sum outside of the logarithm). The factor of their code,
        temperature over base temperature, is not applied.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, 1e-6)

    def forward(self, features: Tensor, labels: Tensor, *, ignore_index: int = -100) -> Tensor:
        """Return the mean loss.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit.
        """
        check_rows("features", features)
        check_labels("labels", labels, features)
        counts = labels != ignore_index
        rows = unit(features)
        similarity = paddle.matmul(rows / self.temperature, rows, transpose_y=True)
        is_other = (
            paddle.tril(paddle.ones_like(similarity), -1) + paddle.triu(paddle.ones_like(similarity), 1) > 0
        )
        is_other = is_other & counts.unsqueeze(0)
        is_partner = (is_other & (labels.unsqueeze(1) == labels.unsqueeze(0))).astype(similarity.dtype)
        is_partner = is_partner * counts.unsqueeze(1).astype(similarity.dtype)
        partners = is_partner.sum(axis=1)
        masked = paddle.where(is_other, similarity, paddle.full([], _NEVER, similarity.dtype))
        loss = paddle.logsumexp(masked, axis=1) - (similarity * is_partner).sum(axis=1) / partners.clip(
            min=1.0
        )
        has_partner = partners > 0
        loss = paddle.where(has_partner, loss, paddle.zeros_like(loss))
        return loss.sum() / has_partner.astype(loss.dtype).sum().clip(min=1.0)
