"""Bottleneck adapters: small perceptrons with a skip connection after sub-layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.checks import check_choice, check_positive
from paddle_infra.peft.adapter import LinearAdapter, new_parameter, raw_weight
from paddle_infra.peft.config import MLP_OUTPUT, AdapterConfig, LayerPattern, Plan, match_layers

HOULSBY = ("output",)
"""After the output of attention and of the perceptron."""

PFEIFFER = MLP_OUTPUT
"""After the output of the perceptron only."""


@dataclass(frozen=True)
class BottleneckConfig(AdapterConfig):
    r"""Perceptrons :math:`z \mapsto z + f(z D + d)\, U + u` on the outputs of linear layers.

    :math:`D` ``[width, size]`` is normal with deviation 0.02; the others are 0 at first, so that nothing changes.

    Args:
        size: width of the bottleneck.
        activation: :math:`f`: ``"gelu"``, ``"relu"`` or ``"silu"``.
        layers: which linear layers: :data:`HOULSBY`, :data:`PFEIFFER` or others.

    References:
        Houlsby et al., arXiv:1902.00751, section 2.1, with two deviations: dropout comes after the adapter, since it is
        one with the residual and the norm; the norms are trained only if ``train_also`` names them. Pfeiffer et al.,
        arXiv:2005.00247, whose adapter lies after the residual: here it lies before.
    """

    kind: ClassVar[str] = "bottleneck"

    size: int = 24
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    layers: LayerPattern = HOULSBY

    def __post_init__(self) -> None:
        check_positive("size", self.size)
        check_choice("activation", self.activation, ("gelu", "relu", "silu"))

    def plan(self, model: nn.Layer) -> Plan:
        """Say which layers are adapted and how."""
        found = match_layers(model, self.layers, (nn.Linear,), "layers")
        return {name: partial(Bottleneck, layer, self) for name, layer in found.items()}


class Bottleneck(LinearAdapter):
    """A perceptron with a skip connection on a linear layer's output."""

    is_mergeable = False

    def __init__(self, layer: nn.Layer, config: BottleneckConfig) -> None:
        super().__init__()
        weight = raw_weight(layer)
        width, zeros = weight.shape[1], nn.initializer.Constant(0.0)
        self.down = new_parameter(self, [width, config.size], weight, nn.initializer.Normal(0.0, 0.02))
        self.down_bias = new_parameter(self, [config.size], weight, zeros)
        self.up = new_parameter(self, [config.size, width], weight, zeros)
        self.up_bias = new_parameter(self, [width], weight, zeros)
        self.activation = config.activation

    def after(self, product: Tensor, x: Tensor) -> Tensor:
        """Return the layer's output."""
        inner = ops.linear(product, self.down, self.down_bias, activation=self.activation)
        return product + ops.linear(inner, self.up, self.up_bias)
