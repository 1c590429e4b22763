"""LoRA: low-rank updates of linear layers and embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.checks import check_flag, check_number, check_positive
from paddle_infra.peft.adapter import LinearAdapter, new_parameter, raw_weight
from paddle_infra.peft.config import ATTENTION_AND_MLP, AdapterConfig, LayerPattern, Plan, match_layers


@dataclass(frozen=True)
class LoRAConfig(AdapterConfig):
    r"""Low-rank updates, :math:`W + s A B` with :math:`A` ``[in, rank]`` and :math:`B` ``[rank, out]``.

    :math:`s = \alpha / r`, or rank-stabilized :math:`\alpha / \sqrt r`. In a linear layer :math:`A` is uniform within
    :math:`\pm 1 / \sqrt{\mathrm{in}}` and :math:`B` is 0 at first; in an embedding :math:`A` is 0 and :math:`B`
    standard normal.

    Args:
        rank: :math:`r`.
        alpha: :math:`\alpha`.
        dropout: dropout probability on the input of :math:`A`, in linear layers. Where someone reads a layer's weight
            instead of calling the layer (a head's fused loss does), there is none.
        rank_stabilized: see above.
        layers: which linear layers and embeddings.

    References:
        Hu et al., arXiv:2106.09685; rank-stabilized: Kalajdzievski, arXiv:2312.03732.
    """

    kind: ClassVar[str] = "lora"

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rank_stabilized: bool = False
    layers: LayerPattern = ATTENTION_AND_MLP

    def __post_init__(self) -> None:
        check_positive("rank", self.rank)
        check_number("alpha", self.alpha)
        check_number("dropout", self.dropout, 0.0, 0.95)
        check_flag("rank_stabilized", self.rank_stabilized)

    @property
    def scale(self) -> float:
        """The factor :math:`s`."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def plan(self, model: nn.Layer) -> Plan:
        """Say which layers are adapted and how."""
        found = match_layers(model, self.layers, (nn.Linear, nn.Embedding), "layers")
        return {
            name: partial(LoRALinear if isinstance(layer, nn.Linear) else LoRAEmbedding, layer, self)
            for name, layer in found.items()
        }


class LoRALinear(LinearAdapter):
    """Adds ``scale · dropout(x) A B`` to a linear layer; ``down`` is A, ``up`` is B."""

    def __init__(self, layer: nn.Layer, config: LoRAConfig) -> None:
        super().__init__()
        weight = raw_weight(layer)
        (rows, columns), bound = weight.shape, 1.0 / math.sqrt(weight.shape[0])
        uniform, zeros = nn.initializer.Uniform(-bound, bound), nn.initializer.Constant(0.0)
        self.down = new_parameter(self, [rows, config.rank], weight, uniform)
        self.up = new_parameter(self, [config.rank, columns], weight, zeros)
        self.scale, self.dropout = config.scale, config.dropout

    def after(self, product: Tensor, x: Tensor) -> Tensor:
        """Return the layer's output."""
        if self.dropout:
            x = F.dropout(x, self.dropout, training=self.training)
        return product + ops.linear(ops.linear(x, self.down) * self.scale, self.up)

    def effective(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the same layer without adapter."""
        return weight + paddle.matmul(self.down * self.scale, self.up), bias


class LoRAEmbedding(nn.Layer):
    """Adds ``scale · A[ids] B`` to an embedding; ``down`` is A, ``up`` is B.

    Where someone reads the table instead of calling the layer, as :class:`~paddle_infra.nn.TransformerEmbedding` does,
    the whole updated table is made, with a gradient of its size.
    """

    is_mergeable = True

    def __init__(self, layer: nn.Layer, config: LoRAConfig) -> None:
        super().__init__()
        weight = raw_weight(layer)
        rows, columns = weight.shape
        self.down = new_parameter(self, [rows, config.rank], weight, nn.initializer.Constant(0.0))
        self.up = new_parameter(self, [config.rank, columns], weight, nn.initializer.Normal(0.0, 1.0))
        self.scale = config.scale

    def rows(self, ids: Tensor, padding_idx: int) -> Tensor:
        """Return what is added to the rows of ``ids``; that of ``padding_idx`` stays 0, as in Paddle's embedding."""
        return ops.linear(F.embedding(ids, self.down, padding_idx=padding_idx) * self.scale, self.up)

    def effective(self, weight: Tensor, bias: None) -> tuple[Tensor, None]:
        """Return the table of the same embedding without adapter."""
        return weight + paddle.matmul(self.down * self.scale, self.up), None
