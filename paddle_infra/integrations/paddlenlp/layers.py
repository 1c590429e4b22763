"""Fused forms of the small layers: linear and norm."""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra.integrations.paddlenlp.fused import Fused, is_plain
from paddle_infra.nn import Linear
from paddle_infra.ops.linear import ActivationName


class FusedLinear(Fused, Linear):
    """``paddle.nn.Linear`` on :func:`paddle_infra.ops.linear`, with its weight kept rounded as in ``nn.Linear``."""

    operators = "ops.linear"
    own_attributes = ("_kept",)
    activation: ActivationName = "none"
    _kept = None

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        return self.activated(input, "none")

    def activated(self, x: Tensor, activation: ActivationName) -> Tensor:
        """Return the output after an activation."""
        return ops.linear(
            x, self.weight, self.bias, activation=activation, packed_weight=self._packed_weight(self.weight)
        )


class FusedLayerNorm(Fused):
    """``paddle.nn.LayerNorm`` over the last axis on :func:`paddle_infra.ops.add_norm`."""

    operators = "ops.add_norm"

    @classmethod
    def refusals(cls, layer: nn.Layer) -> list[str]:
        """Refuse a norm over several axes."""
        reasons = super().refusals(layer)
        if len(layer._normalized_shape) != 1:
            reasons.append(f"it normalizes over {len(layer._normalized_shape)} axes")
        return reasons

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalized input."""
        return ops.add_norm(input, None, self.weight, self.bias, epsilon=self._epsilon)


def is_plain_norm(layer: Any) -> bool:
    """Whether the layer is a LayerNorm that :func:`paddle_infra.ops.add_norm` can compute."""
    return is_plain(layer, nn.LayerNorm) and len(layer._normalized_shape) == 1
