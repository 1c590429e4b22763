"""IA³: learned scales of keys, values and inner activations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from paddle import Tensor, nn

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.peft.adapter import LinearAdapter, new_parameter, raw_weight
from paddle_infra.peft.config import MLP_OUTPUT, AdapterConfig, LayerPattern, Plan, match_layers


@dataclass(frozen=True)
class IA3Config(AdapterConfig):
    """Scales, 1 at first: of the outputs of some linear layers (keys, values) and of the inputs of others.

    The input of a perceptron's second layer is the inner activation. An output is scaled before an activation of the
    layer's own.

    Args:
        layers: linear layers whose outputs are scaled.
        input_layers: linear layers whose inputs are scaled.

    References:
        Liu et al., arXiv:2205.05638, section 3.3.
    """

    kind: ClassVar[str] = "ia3"

    layers: LayerPattern = ("key", "value")
    input_layers: LayerPattern = MLP_OUTPUT

    def plan(self, model: nn.Layer) -> Plan:
        """Say which layers are adapted and how."""
        outputs = match_layers(model, self.layers, (nn.Linear,), "layers")
        inputs = match_layers(model, self.input_layers, (nn.Linear,), "input_layers")
        both = [name for name in outputs if name in inputs]
        if both:
            raise InvalidInputError(f"input_layers: expected other layers than in layers, got {both}")
        made = {name: partial(OutputScale, layer) for name, layer in outputs.items()}
        return {**made, **{name: partial(InputScale, layer) for name, layer in inputs.items()}}


class OutputScale(LinearAdapter):
    """``(x W + b) · factors``."""

    def __init__(self, layer: nn.Layer) -> None:
        super().__init__()
        weight = raw_weight(layer)
        self.factors = new_parameter(self, [weight.shape[1]], weight, nn.initializer.Constant(1.0))

    def after(self, product: Tensor, x: Tensor) -> Tensor:
        """Return the layer's output."""
        return product * self.factors

    def effective(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the same layer without adapter."""
        return weight * self.factors, None if bias is None else bias * self.factors


class InputScale(LinearAdapter):
    """``(x · factors) W + b``."""

    def __init__(self, layer: nn.Layer) -> None:
        super().__init__()
        weight = raw_weight(layer)
        self.factors = new_parameter(self, [weight.shape[0]], weight, nn.initializer.Constant(1.0))

    def before(self, x: Tensor) -> Tensor:
        """Return what is multiplied by the weight."""
        return x * self.factors

    def effective(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the same layer without adapter."""
        return weight * self.factors.unsqueeze(-1), bias
