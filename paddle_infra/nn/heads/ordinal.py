"""Classes in an order."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.checks import check_choice, check_positive
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.heads._linear import check_classes, check_hidden, mean_over

_LINKS = ("coral", "cumulative")


class OrdinalHead(nn.Layer):
    r"""Classes in an order (grades, severities): one score per row and a threshold between neighbouring classes.

    With the score :math:`s = w^\top h` and biases :math:`b_1, \dots, b_{K-1}`, the logit that the class is above
    :math:`k - 1` is :math:`s + b_k`.

    ``"coral"`` learns the :math:`K - 1` binary decisions: a row's loss is the sum of their cross entropies. Biases are
    free; they are in descending order at the optimum (theorem 1 of the paper), until then a class may have a
    "probability" below 0, which :meth:`probabilities` cuts off.

    ``"cumulative"`` (cumulative link, proportional odds) learns the class: the loss is
    :math:`-\log(\sigma(s + b_y) - \sigma(s + b_{y+1}))` with :math:`b_0 = \infty, b_K = -\infty`. The differences
    between the biases are softplus of free parameters, so that they are always in order.

    Args:
        hidden_size: width of the input.
        num_classes: :math:`K`, at least 2.
        dropout: dropout probability before the score.
        link: ``"coral"`` or ``"cumulative"``.

    Shapes:
        hidden ``[..., hidden_size]`` to logits ``[..., num_classes - 1]``; labels int64 ``[...]``, -100 = ignored.

    References:
        Cao et al., arXiv:1901.07884, section 3 (importance weights are 1); McCullagh, "Regression models for ordinal
        data", 1980. The loss of the latter uses :math:`\sigma(a) - \sigma(b) = \sigma(a) \sigma(-b) (1 - e^{b-a})`,
        which is exact where the difference is tiny.
    """

    def __init__(
        self, hidden_size: int, num_classes: int, dropout: float = 0.1, *, link: str = "coral"
    ) -> None:
        super().__init__()
        check_positive("hidden_size", hidden_size)
        if not isinstance(num_classes, int) or num_classes < 2:
            raise InvalidInputError(f"num_classes: expected an integer of at least 2, got {num_classes!r}")
        check_choice("link", link, _LINKS)
        self.num_classes, self.link, self.dropout = num_classes, link, dropout
        self.score = nn.Linear(hidden_size, 1, bias_attr=False)
        # The order is symmetric around 0 in the beginning: descending from (K - 2) / 2 in steps of 1.
        first = (num_classes - 2) / 2.0
        if link == "coral":
            initial = paddle.arange(num_classes - 1, dtype="float32") * -1.0 + first
            self.bias = self._parameter(initial)
        else:
            self.bias = self._parameter(paddle.to_tensor([first]))
            # softplus(0.5413) = 1
            self.steps = (
                self._parameter(paddle.full([num_classes - 2], 0.5413248546)) if num_classes > 2 else None
            )

    def _parameter(self, initial: Tensor) -> Tensor:
        return self.create_parameter(
            initial.shape, default_initializer=nn.initializer.Assign(initial.numpy()), is_bias=True
        )

    def _biases(self) -> Tensor:
        if self.link == "coral" or self.steps is None:
            return self.bias
        return paddle.concat([self.bias, self.bias - paddle.cumsum(F.softplus(self.steps))])

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits that the class is above 0, above 1, …: ``[..., num_classes - 1]``."""
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, training=self.training)
        return self.score(hidden) + self._biases()

    def predict(self, hidden: Tensor) -> Tensor:
        """Return the class of each row, int64 ``[...]``: how many thresholds it is above with probability over 1/2."""
        return (self(hidden) > 0).astype("int64").sum(axis=-1)

    def probabilities(self, hidden: Tensor) -> Tensor:
        """Return the probability of each class, ``[..., num_classes]``; see the class about ``"coral"``."""
        above = F.sigmoid(self(hidden))
        ones = paddle.ones_like(above[..., :1])
        above = paddle.concat([ones, above, paddle.zeros_like(ones)], axis=-1)
        return paddle.clip(above[..., :-1] - above[..., 1:], min=0.0)

    def loss(self, hidden: Tensor, labels: Tensor, *, ignore_index: int = -100) -> Tensor:
        """Return the mean loss over the rows that count; see the class.

        Args:
            hidden: ``[..., hidden_size]``.
            labels: int64 ``[...]``, classes from 0.
            ignore_index: the label of rows that do not count.

        Returns:
            0-D; 0 with gradients 0 if nothing counts.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit, or a label is out of range.
        """
        check_hidden(hidden, self.score.weight.shape[0])
        check_classes(labels, list(hidden.shape[:-1]), self.num_classes, ignore_index)
        counts = labels != ignore_index
        logits = self(hidden)
        labels = paddle.where(counts, labels, paddle.zeros_like(labels)).astype("int64")
        if self.link == "coral":
            levels = (labels.unsqueeze(-1) > paddle.arange(self.num_classes - 1)).astype(logits.dtype)
            loss = _softplus(logits) - levels * logits
            return mean_over(loss.sum(axis=-1), counts)
        return mean_over(self._cumulative_loss(logits, labels), counts)

    def _cumulative_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        last = self.num_classes - 1
        # -log P = softplus(-upper) + softplus(lower) - log(1 - exp(lower - upper)); the first and the last class
        # have only one of the thresholds.
        upper = paddle.take_along_axis(logits, (labels - 1).clip(min=0).unsqueeze(-1), axis=-1).squeeze(-1)
        lower = paddle.take_along_axis(logits, labels.clip(max=last - 1).unsqueeze(-1), axis=-1).squeeze(-1)
        zero = paddle.zeros_like(upper)
        loss = paddle.where(labels > 0, _softplus(-upper), zero) + paddle.where(
            labels < last, _softplus(lower), zero
        )
        if self.steps is None:
            return loss
        # One gap per inner class, from the parameters alone: the score has cancelled.
        gap = F.softplus(self.steps)
        between = paddle.log(-paddle.expm1(-gap))
        inner = (labels - 1).clip(min=0, max=last - 2)
        is_inner = (labels > 0) & (labels < last)
        return loss - paddle.where(is_inner, paddle.gather_nd(between, inner.unsqueeze(-1)), zero)


def _softplus(x: Tensor) -> Tensor:
    # Not F.softplus, which is linear above 20.
    return -F.log_sigmoid(-x)
