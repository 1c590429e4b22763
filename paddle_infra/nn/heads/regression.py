"""Numbers for each row."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor

from paddle_infra._core.checks import check_choice, check_number, check_positive, check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.heads._linear import FLOATS, LinearHead, check_hidden, check_mask, mean_over
from paddle_infra.nn.padding import zero_padding

_LOSSES = ("squared", "huber", "quantile")


class RegressionHead(LinearHead):
    r"""Numbers for each row, learned with the squared, the Huber or the quantile loss.

    With the residual :math:`r = \hat y - y`: ``"squared"`` is :math:`r^2`; ``"huber"`` is :math:`r^2 / 2` where
    :math:`|r| \le \delta` and :math:`\delta (|r| - \delta / 2)` elsewhere; ``"quantile"`` is
    :math:`\max(-q r, (1 - q) r)` for each quantile :math:`q` (the pinball loss).

    Args:
        hidden_size: width of the input.
        num_targets: numbers per row.
        dropout: dropout probability before the linear layer.
        loss: ``"squared"``, ``"huber"`` or ``"quantile"``.
        delta: :math:`\delta` of the Huber loss.
        quantiles: the :math:`q`, between 0 and 1, in ascending order, for ``loss="quantile"`` only. Nothing keeps the
            predicted quantiles from crossing.

    Shapes:
        hidden ``[..., hidden_size]`` to ``[..., num_targets]``, with quantiles
        ``[..., num_targets, num_quantiles]``; labels float ``[..., num_targets]``; mask ``[...]`` or as labels.

    References:
        Huber, "Robust estimation of a location parameter", 1964; Koenker and Bassett, "Regression quantiles", 1978.
    """

    def __init__(
        self,
        hidden_size: int,
        num_targets: int = 1,
        dropout: float = 0.1,
        *,
        loss: str = "squared",
        delta: float = 1.0,
        quantiles: Sequence[float] = (),
    ) -> None:
        check_choice("loss", loss, _LOSSES)
        check_positive("num_targets", num_targets)
        inside = [0.0 < q < 1.0 for q in quantiles]
        if (loss == "quantile") != bool(quantiles) or not all(inside) or sorted(quantiles) != list(quantiles):
            raise InvalidInputError(
                "quantiles: expected ascending numbers between 0 and 1 for loss='quantile', and none otherwise, got "
                f"{list(quantiles)} with loss={loss!r}"
            )
        super().__init__(hidden_size, num_targets * max(1, len(quantiles)), dropout)
        self.num_targets = num_targets
        self.kind = loss
        self.delta = check_number("delta", delta, 1e-12)
        self.quantiles = tuple(float(q) for q in quantiles)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the predictions: ``[..., num_targets]``, or ``[..., num_targets, num_quantiles]``."""
        predicted = super().forward(hidden)
        if not self.quantiles:
            return predicted
        # 0 copies a size: unflatten() cannot do with two that a program does not know.
        return predicted.reshape([0] * (predicted.ndim - 1) + [self.num_targets, len(self.quantiles)])

    def loss(self, hidden: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the mean loss over the numbers that count (and over quantiles).

        Args:
            hidden: ``[..., hidden_size]``.
            labels: float ``[..., num_targets]``; anything, also NaN, where the mask is 0.
            mask: bool or integers, 0 = does not count: ``[...]`` for whole rows or ``[..., num_targets]``.

        Returns:
            0-D; 0 with gradients 0 if nothing counts.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit.
        """
        check_hidden(hidden, self.classifier.weight.shape[0])
        rows = list(hidden.shape[:-1])
        check_tensor("labels", labels, FLOATS)
        check_shape("labels", labels, [*rows, self.num_targets], "[..., num_targets]")
        counts = None
        if mask is not None:
            is_per_row = mask.ndim == len(rows)
            check_mask(mask, rows if is_per_row else [*rows, self.num_targets], "[...] or [..., num_targets]")
            counts = (mask != 0).unsqueeze(-1).expand_as(labels) if is_per_row else mask != 0
            labels = paddle.where(counts, labels, paddle.zeros_like(labels))
            hidden = zero_padding(hidden, mask) if is_per_row else hidden
        predicted = self(hidden)
        if self.kind == "quantile":
            loss = self._pinball(predicted - labels.unsqueeze(-1)).mean(axis=-1)
        else:
            residual = predicted - labels
            loss = residual * residual if self.kind == "squared" else self._huber(residual.abs())
        return mean_over(loss, counts)

    def _pinball(self, residual: Tensor) -> Tensor:
        quantiles = paddle.to_tensor(self.quantiles, dtype=residual.dtype)
        return paddle.maximum(-quantiles * residual, (1.0 - quantiles) * residual)

    def _huber(self, size: Tensor) -> Tensor:
        inner = paddle.clip(size, max=self.delta)  # never squared where it is not used: no overflow
        return inner * (size - 0.5 * inner)
