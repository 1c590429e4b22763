"""AdaLoRA: low-rank updates in the form of a singular value decomposition, whose ranks are allocated in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.checks import check_number, check_positive
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.peft.adapter import LinearAdapter, new_parameter, raw_weight
from paddle_infra.peft.config import ATTENTION_AND_MLP, AdapterConfig, LayerPattern, Plan, match_layers


@dataclass(frozen=True)
class AdaLoRAConfig(AdapterConfig):
    r"""Updates :math:`W + s\, P \Lambda Q` with a diagonal :math:`\Lambda`, 0 at first.

    :math:`P` ``[in, rank]`` and :math:`Q` ``[rank, out]`` start as normal numbers of variance 1 / in and 1 / out, so
    that their columns and rows are nearly orthonormal already; :math:`s = \alpha / \mathrm{rank}` stays as the ranks
    shrink. Train with :func:`with_orthogonality` and with :class:`RankAllocation` among the Trainer's callbacks.

    Args:
        rank: triplets (a column of P, a number of Λ, a row of Q) of each layer at first.
        alpha: :math:`\alpha`.
        dropout: dropout probability on the input of :math:`P`.
        layers: which linear layers.

    References:
        Zhang et al., arXiv:2303.10512, section 3.1.
    """

    kind: ClassVar[str] = "adalora"

    rank: int = 12
    alpha: float = 24.0
    dropout: float = 0.0
    layers: LayerPattern = ATTENTION_AND_MLP

    def __post_init__(self) -> None:
        check_positive("rank", self.rank)
        check_number("alpha", self.alpha)
        check_number("dropout", self.dropout, 0.0, 0.95)

    def plan(self, model: nn.Layer) -> Plan:
        """Say which layers are adapted and how."""
        found = match_layers(model, self.layers, (nn.Linear,), "layers")
        return {name: partial(AdaLoRALinear, layer, self) for name, layer in found.items()}


class AdaLoRALinear(LinearAdapter):
    """Adds ``scale · dropout(x) P Λ Q``: ``left`` is P, ``diagonal`` is Λ, ``right`` is Q.

    ``kept`` says which triplets the final allocation has kept: 1 or 0; before it all are 1.
    """

    def __init__(self, layer: nn.Layer, config: AdaLoRAConfig) -> None:
        super().__init__()
        weight = raw_weight(layer)
        (rows, columns), rank = weight.shape, config.rank
        self.left = new_parameter(self, [rows, rank], weight, nn.initializer.Normal(0.0, 1 / math.sqrt(rows)))
        self.diagonal = new_parameter(self, [rank], weight, nn.initializer.Constant(0.0))
        self.right = new_parameter(
            self, [rank, columns], weight, nn.initializer.Normal(0.0, 1 / math.sqrt(columns))
        )
        self.register_buffer("kept", paddle.ones([rank], weight.dtype))
        self.scale, self.dropout = config.alpha / rank, config.dropout

    def _factors(self) -> Tensor:
        return self.diagonal * self.kept * self.scale

    def after(self, product: Tensor, x: Tensor) -> Tensor:
        """Return the layer's output."""
        if self.dropout:
            x = F.dropout(x, self.dropout, training=self.training)
        return product + ops.linear(ops.linear(x, self.left) * self._factors(), self.right)

    def effective(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the same layer without adapter."""
        return weight + paddle.matmul(self.left * self._factors(), self.right), bias

    def orthogonality(self) -> Tensor:
        r"""Return :math:`\|P^T P - I\|_F^2 + \|Q Q^T - I\|_F^2`."""
        identity = paddle.eye(self.diagonal.shape[0], dtype=self.left.dtype)
        left = paddle.matmul(self.left, self.left, transpose_x=True) - identity
        right = paddle.matmul(self.right, self.right, transpose_y=True) - identity
        return left.square().sum() + right.square().sum()


def triplet_layers(model: nn.Layer) -> dict[str, AdaLoRALinear]:
    """Return the AdaLoRA adapters that compute, by structured name.

    Raises:
        InvalidInputError: there are none.
    """
    found = {
        name: layer
        for name, layer in model.named_sublayers()
        if isinstance(layer, AdaLoRALinear) and not layer.diagonal.stop_gradient
    }
    if not found:
        raise InvalidInputError("expected a model whose active adapter is AdaLoRA and trains, got none")
    return found


def orthogonality(model: nn.Layer) -> Tensor:
    r"""Return :math:`\sum_k \|P_k^T P_k - I\|_F^2 + \|Q_k Q_k^T - I\|_F^2` over the layers of the active adapter.

    Raises:
        InvalidInputError: there is no such adapter.

    References:
        Zhang et al., arXiv:2303.10512, equation 4.
    """
    return paddle.add_n([layer.orthogonality() for layer in triplet_layers(model).values()])


def with_orthogonality(
    training_step: Callable[[nn.Layer, Any], Tensor], weight: float = 0.1
) -> Callable[[nn.Layer, Any], Tensor]:
    """Return a training step whose loss has ``weight`` times :func:`orthogonality` added.

    The orthogonality enters once, however many micro-batches a window has, since their weights sum to 1.
    """
    check_number("weight", weight, 0.0)

    def step(model: nn.Layer, batch: Any) -> Tensor:
        return training_step(model, batch) + weight * orthogonality(model)

    return step
