"""The fused form of ``paddle.nn.TransformerEncoderLayer``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra.integrations.paddlenlp.fused import Fused, is_plain, is_plain_dropout
from paddle_infra.integrations.paddlenlp.layers import FusedLinear, is_plain_norm
from paddle_infra.ops.linear import ActivationName

_ACTIVATIONS: Mapping[Any, ActivationName] = MappingProxyType(
    {F.gelu: "gelu", F.relu: "relu", F.silu: "silu", F.swish: "silu"}
)
# The forward methods whose meaning is known: Paddle's, and the one that PaddleNLP puts in its place.
_KNOWN_FORWARDS = ("paddle.nn.layer.transformer", "paddlenlp.transformers.model_outputs")


class FusedEncoderLayer(Fused):
    """Post-norm and pre-norm layers: linear with activation, and dropout, residual and norm, in one pass each.

    What is not as Paddle makes it (an adapter in place of a linear layer, a hook, an unusual activation or dropout) is
    called as it is, and what is beside it stays fused.
    """

    operators = "ops.linear with its activation, ops.add_norm with dropout and residual"
    unless = "the weights (output_attentions=True) or a cache is asked for"

    @classmethod
    def refusals(cls, layer: nn.Layer) -> list[str]:
        """Refuse if somebody else has patched Paddle's class."""
        reasons = super().refusals(layer)
        owner = type(layer).forward.__module__
        if owner not in _KNOWN_FORWARDS:
            reasons.append(f"the forward of paddle.nn.TransformerEncoderLayer was replaced by {owner}")
        return reasons

    def forward(
        self, src: Tensor, src_mask: Tensor | None = None, cache: Any = None, output_attentions: bool = False
    ) -> Any:
        """Return what the original forward returns."""
        if output_attentions:
            return type(self).original.forward(self, src, src_mask, cache, output_attentions)
        if cache is not None:
            return type(self).original.forward(self, src, src_mask, cache)
        self.self_attn.need_weights = False  # as PaddleNLP's forward: an earlier call may have asked for them
        if self.normalize_before:
            return self._pre_norm(src, src_mask)
        attended = self.self_attn(src, src, src, src_mask)
        hidden = self._add_norm(attended, src, self.dropout1, self.norm1)
        return self._add_norm(self._perceptron(hidden), hidden, self.dropout2, self.norm2)

    def _pre_norm(self, src: Tensor, src_mask: Tensor | None) -> Tensor:
        normalized = self.norm1(src)
        attended = self.self_attn(normalized, normalized, normalized, src_mask)
        if is_plain_norm(self.norm2) and is_plain_dropout(self.dropout1):
            norm = self.norm2
            normalized, stream = ops.add_norm_with_sum(
                attended,
                src,
                norm.weight,
                norm.bias,
                epsilon=norm._epsilon,
                dropout_p=self.dropout1.p,
                training=self.dropout1.training,
            )
        else:
            stream = src + self.dropout1(attended)
            normalized = self.norm2(stream)
        return stream + self.dropout2(self._perceptron(normalized))

    def _add_norm(self, hidden: Tensor, residual: Tensor, dropout: Any, norm: Any) -> Tensor:
        if not (is_plain_norm(norm) and is_plain_dropout(dropout)):
            return norm(residual + dropout(hidden))
        return ops.add_norm(
            hidden,
            residual,
            norm.weight,
            norm.bias,
            epsilon=norm._epsilon,
            dropout_p=dropout.p,
            training=dropout.training,
        )

    def _perceptron(self, hidden: Tensor) -> Tensor:
        activation = _ACTIVATIONS.get(self.activation)
        first = self.linear1
        if activation is not None and isinstance(first, FusedLinear) and is_plain(first, nn.Linear):
            inner = first.activated(hidden, activation)
        else:
            inner = self.activation(first(hidden))
        return self.linear2(self.dropout(inner))
