"""Contrastive loss of pairs, with the rest of the batch as negatives."""

from __future__ import annotations

import math

import paddle
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.checks import UNKNOWN, check_flag, check_number, check_shape, check_tensor, dtype_name
from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.nn._geometry import rows_of, unit
from paddle_infra.nn.losses._arguments import check_labels, check_rows
from paddle_infra.nn.losses._gather import gather_rows, rank

_NEVER = -1e30  # a logit whose exponential is 0
_LARGEST_SCALE = 100.0


class ContrastiveLoss(nn.Layer):
    r"""Cross entropy of finding a query's partner among all candidates of the batch (InfoNCE, in-batch softmax).

    With queries :math:`q_i`, candidates :math:`c_j` (the partners, then extra negatives) and temperature
    :math:`\tau`,

    .. math::
        l_i = -\log \frac{\exp(q_i \cdot c_i / \tau - \log Q_i)}{\sum_j \exp(q_i \cdot c_j / \tau - \log Q_j)}

    averaged over queries; :math:`Q_j` is the probability with which a candidate is in a batch, if given. It is
    :func:`paddle_infra.ops.linear_cross_entropy` with the candidates as the weight of a classifier: the similarities
    are never stored, forward or backward.

    Under several processes each contrasts with its own batch, unless ``gather`` is on: then candidates are those of all
    processes, and the mean of the processes' losses and of their gradients, as data-parallel training takes it, is that
    of the joined batch. Every process must then come with the same number of rows, in the same steps.

    Args:
        temperature: :math:`\tau`, above 0; the initial one if it is learned.
        learned: whether :math:`\log(1/\tau)` is a parameter, ``log_scale``. :math:`1/\tau` is cut off at 100.
        normalize: whether vectors are scaled to length 1 first, so that similarities are cosines.
        symmetric: whether the loss of finding each partner's query among all queries is added, both halved.
        gather: whether candidates (in the symmetric form also queries) of all processes count; in dynamic mode only.

    Shapes:
        query and positive ``[batch_size, width]``, negatives ``[count, width]`` or ``[batch_size, count, width]`` (all
        are negatives of every query), to a loss, 0-D. A batch of 1 without negatives has the loss 0.

    References:
        van den Oord et al., arXiv:1807.03748, section 2.3; the learned temperature and its limit, the symmetric form:
        Radford et al., "CLIP", arXiv:2103.00020, sections 2.3 and 2.5; log Q: Yi et al., "Sampling-bias-corrected
        neural modeling for large corpus item recommendations", RecSys 2019, section 3.
    """

    def __init__(
        self,
        temperature: float = 0.05,
        *,
        learned: bool = False,
        normalize: bool = True,
        symmetric: bool = False,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, 1e-6)
        self.normalize = check_flag("normalize", normalize)
        self.symmetric = check_flag("symmetric", symmetric)
        self.gather = check_flag("gather", gather)
        check_flag("learned", learned)
        if learned and temperature < 1.0 / _LARGEST_SCALE:
            raise InvalidInputError(
                f"temperature: expected at least {1.0 / _LARGEST_SCALE:g} if it is learned, got {temperature!r}"
            )
        initial = nn.initializer.Constant(-math.log(self.temperature))
        self.log_scale = self.create_parameter([1], default_initializer=initial) if learned else None

    def forward(
        self,
        query: Tensor,
        positive: Tensor,
        negatives: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        log_probability: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss.

        Args:
            query: ``[batch_size, width]``, float.
            positive: the partner of each query, same shape and dtype.
            negatives: further candidates, ``[count, width]`` or ``[batch_size, count, width]``.
            ids: int64 ``[batch_size]``, what each partner is. Partners with the same id are the same candidate: only
                the first of them counts, as the partner of all their queries. Without ids, a partner that occurs twice
                is also a negative of its own queries. Extra negatives are not compared with it.
            log_probability: log of the probability with which each partner is in a batch, float ``[batch_size]``; that
                of extra negatives is 0. No gradient. It corrects for popular candidates being negatives more often.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit.
            UnsupportedError: ids or probabilities with the symmetric form, for which they mean nothing.
        """
        check_rows("query", query)
        check_rows("positive", positive, query)
        self._check_options(query, negatives, ids, log_probability)
        if self.normalize:
            query, positive = unit(query), unit(positive)
        scaled = query * self._scale()
        own = self._own(query)
        partners = candidates = self._shared(positive)
        if negatives is not None:
            negatives = negatives.reshape([-1, query.shape[-1]])
            negatives = self._shared(unit(negatives) if self.normalize else negatives)
            candidates = paddle.concat([partners, negatives])
        labels, bias = own, None
        if log_probability is not None:
            bias = -self._shared(log_probability.detach()).astype(query.dtype)
        if ids is not None:
            first = _first_with_same_id(self._shared(ids))
            bias = paddle.zeros_like(partners[:, 0]).detach() if bias is None else bias
            bias = paddle.where(first == rows_of(partners), bias, paddle.full([], _NEVER, bias.dtype))
            labels = paddle.gather(first, own)
        if bias is not None and negatives is not None:
            bias = paddle.concat([bias, paddle.zeros_like(negatives[:, 0]).detach()])
        loss = ops.linear_cross_entropy(scaled, candidates, labels, bias=bias)
        if self.symmetric:
            loss = 0.5 * (loss + ops.linear_cross_entropy(positive * self._scale(), self._shared(query), own))
        return loss

    def _shared(self, rows: Tensor) -> Tensor:
        return gather_rows(rows) if self.gather else rows

    def _own(self, query: Tensor) -> Tensor:
        """Return which candidates are the partners of this process's queries."""
        return rows_of(query) + rank() * query.shape[0] if self.gather else rows_of(query)

    def _scale(self) -> Tensor | float:
        if self.log_scale is None:
            return 1.0 / self.temperature
        return paddle.exp(paddle.clip(self.log_scale, max=math.log(_LARGEST_SCALE)))

    def _check_options(
        self, query: Tensor, negatives: Tensor | None, ids: Tensor | None, log_probability: Tensor | None
    ) -> None:
        if negatives is not None:
            check_tensor("negatives", negatives, (dtype_name(query),))
            width = query.shape[-1]
            if negatives.ndim == 3:
                check_shape(
                    "negatives", negatives, [query.shape[0], UNKNOWN, width], "[batch_size, count, width]"
                )
            else:
                check_shape("negatives", negatives, [UNKNOWN, width], "[count, width]")
        if ids is not None:
            check_labels("ids", ids, query)
        if log_probability is not None:
            check_labels("log_probability", log_probability, query, ("float32", "float64"))
        if self.symmetric and not (ids is None and log_probability is None):
            raise UnsupportedError(
                "ContrastiveLoss(symmetric=True): expected neither ids nor log_probability, which are those of "
                "the partners alone; got one"
            )


def _first_with_same_id(ids: Tensor) -> Tensor:
    """Return for each row the first row with the same id, by sorting: no matrix of all pairs."""
    order = paddle.argsort(ids, stable=True)
    return paddle.gather(order, paddle.searchsorted(paddle.gather(ids, order), ids))
