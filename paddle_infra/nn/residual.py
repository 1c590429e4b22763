"""What Transformer layers have in common: sub-layers with a residual and a norm, before or after them."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra.nn.drop_path import check_drop_path, drop_path
from paddle_infra.nn.norm import NormName, new_norm


class ResidualLayer(nn.Layer):
    """Base of layers made of sub-layers, each with dropout, residual and norm; additions and norms are fused.

    With the norm after a sub-layer (post-norm), ``x = norm(x + dropout(sublayer(x)))``; before it (pre-norm),
    ``x = x + dropout(sublayer(norm(x)))``. ``drop_path`` leaves out the branch for some samples in training.

    A layer calls :meth:`_begin` with its first norm, :meth:`_go_on` between two sub-layers, and :meth:`_end` after the
    last.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        dropout: float,
        epsilon: float,
        norm: NormName,
        norm_first: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.epsilon = epsilon
        self.norm_kind = norm
        self.norm_first = norm_first
        self.drop_path = check_drop_path(drop_path)

    def _new_norm(self) -> nn.Layer:
        return new_norm(self.norm_kind, self.hidden_size, self.epsilon)

    def _begin(self, hidden: Tensor, norm: nn.Layer) -> Tensor:
        """Return the first sub-layer's input; ``norm`` is the first one's."""
        if not self.norm_first:
            return hidden
        return ops.add_norm(
            hidden,
            None,
            norm.weight,
            norm.bias,
            norm=self.norm_kind,
            epsilon=self.epsilon,
            training=self.training,
        )

    def _go_on(
        self, branch: Tensor, stream: Tensor, norm: nn.Layer, next_norm: nn.Layer
    ) -> tuple[Tensor, Tensor]:
        """Return the next sub-layer's input, and the stream that its output is added to."""
        if not self.norm_first:
            hidden = self._end(branch, stream, norm)
            return hidden, hidden
        return ops.add_norm_with_sum(
            drop_path(branch, self.drop_path, self.training),
            stream,
            next_norm.weight,
            next_norm.bias,
            norm=self.norm_kind,
            epsilon=self.epsilon,
            dropout_p=self.dropout,
            training=self.training,
        )

    def _end(self, branch: Tensor, stream: Tensor, norm: nn.Layer) -> Tensor:
        """Return the sum of the stream and a sub-layer's output, in post-norm its norm."""
        branch = drop_path(branch, self.drop_path, self.training)
        if self.norm_first:
            return stream + (
                F.dropout(branch, self.dropout, training=self.training) if self.dropout else branch
            )
        return ops.add_norm(
            branch,
            stream,
            norm.weight,
            norm.bias,
            norm=self.norm_kind,
            epsilon=self.epsilon,
            dropout_p=self.dropout,
            training=self.training,
        )


def depth_rates(drop_path: float, num_layers: int) -> list[float]:
    """Return each layer's rate of stochastic depth: from 0 for the first, evenly up to ``drop_path`` for the last."""
    check_drop_path(drop_path)
    return [drop_path * layer / max(num_layers - 1, 1) for layer in range(num_layers)]
