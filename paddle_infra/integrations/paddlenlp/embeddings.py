"""The fused forms of PaddleNLP's input embeddings."""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra.integrations.paddlenlp.fused import Fused, is_plain, is_plain_dropout
from paddle_infra.integrations.paddlenlp.layers import is_plain_norm


class _Embeddings(Fused):
    """Look-ups, their sum, norm and dropout in one pass: :func:`paddle_infra.ops.embedding_norm`."""

    operators = "ops.embedding_norm"
    unless = "inputs_embeds or a cache is given"

    @classmethod
    def refusals(cls, layer: nn.Layer) -> list[str]:
        """Refuse tables that do more than look up."""
        reasons = super().refusals(layer)
        for name, part in layer.named_children():
            reasons += [f"{name} {reason}" for reason in _peculiarities(part)]
        return reasons

    def _is_usual(self) -> bool:
        return not any(_peculiarities(part) for part in self._sub_layers.values())

    def _embed(self, input_ids: Tensor, token_type_ids: Tensor | None, position_ids: Tensor | None) -> Tensor:
        token_type = self._sub_layers.get("token_type_embeddings")
        return ops.embedding_norm(
            input_ids,
            self.word_embeddings.weight,
            self.position_embeddings.weight,
            None if token_type is None else token_type.weight,
            self.layer_norm.weight,
            self.layer_norm.bias,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
            epsilon=self.layer_norm._epsilon,
            dropout_p=self.dropout.p,
            training=self.dropout.training,
        )


def _peculiarities(part: Any) -> list[str]:
    """Return what keeps a table, the norm or the dropout from being fused."""
    if is_plain(part, nn.Embedding):
        reasons = []
        if part._padding_idx not in (None, -1):
            reasons.append(f"gives zeros for padding_idx={part._padding_idx}")
        if part._sparse or part._max_norm is not None or part._scale_grad_by_freq:
            reasons.append("has sparse or scaled gradients, or a largest norm")
        return reasons
    if is_plain_norm(part) or is_plain_dropout(part):
        return []
    return [f"is {type(part).__name__}, or has hooks"]


class FusedBertEmbeddings(_Embeddings):
    """Of BERT and TinyBERT."""

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values_length: int | None = None,
    ) -> Tensor:
        """Return the embedded sequence."""
        if past_key_values_length is not None or not self._is_usual():
            return type(self).original.forward(
                self, input_ids, token_type_ids, position_ids, past_key_values_length
            )
        return self._embed(input_ids, token_type_ids, position_ids)


class FusedElectraEmbeddings(_Embeddings):
    """Of ELECTRA."""

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values_length: int | None = None,
    ) -> Tensor:
        """Return the embedded sequence."""
        if input_ids is None or past_key_values_length is not None or not self._is_usual():
            return type(self).original.forward(
                self, input_ids, token_type_ids, position_ids, inputs_embeds, past_key_values_length
            )
        return self._embed(input_ids, token_type_ids, position_ids)


class FusedDistilBertEmbeddings(_Embeddings):
    """Of DistilBERT, which has no token types."""

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Return the embedded sequence."""
        if not self._is_usual():
            return type(self).original.forward(self, input_ids, position_ids)
        return self._embed(input_ids, None, position_ids)
