"""Prompt tuning: soft tokens before the embedded input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from paddle import Tensor, nn

from paddle_infra._core.checks import check_positive
from paddle_infra.nn import TransformerEncoder
from paddle_infra.peft.adapter import new_parameter, raw_weight
from paddle_infra.peft.config import AdapterConfig, LayerPattern, Plan, match_layers


@dataclass(frozen=True)
class PromptConfig(AdapterConfig):
    """Soft tokens that an encoder reads before the embedded input.

    Every token sees them. They have no positions, and their states are taken out of the encoder's result, so that
    positions, masks and pooling of the real tokens are as without; they are uniform within ±0.5 at first.

    Args:
        length: how many.
        layers: which :class:`~paddle_infra.nn.TransformerEncoder` layers.

    References:
        Lester et al., arXiv:2104.08691. Deviation: a model that adds positions and norms its embeddings does so before
        the soft tokens come.
    """

    kind: ClassVar[str] = "prompt"

    length: int = 16
    layers: LayerPattern = ".*"

    def __post_init__(self) -> None:
        check_positive("length", self.length)

    def plan(self, model: nn.Layer) -> Plan:
        """Say which layers are adapted and how."""
        found = match_layers(model, self.layers, (TransformerEncoder,), "layers")
        return {name: partial(Prompt, layer, self) for name, layer in found.items()}


class Prompt(nn.Layer):
    """Called with the batch size, returns the soft tokens, ``[batch_size, length, hidden_size]``."""

    is_mergeable = False

    def __init__(self, encoder: TransformerEncoder, config: PromptConfig) -> None:
        super().__init__()
        attention = encoder.layers[0].attention
        self.length = config.length
        shape = [config.length, attention.hidden_size]
        self.states = new_parameter(self, shape, raw_weight(attention.key), nn.initializer.Uniform(-0.5, 0.5))

    def forward(self, batch_size: int | Tensor) -> Tensor:
        """Return the soft tokens."""
        return self.states.unsqueeze(0).expand([batch_size, *self.states.shape])
