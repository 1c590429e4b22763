"""The encoder with a masked language model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import paddle
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.errors import WeightError
from paddle_infra.models.bert_config import BertConfig
from paddle_infra.models.encoder import EncoderModel
from paddle_infra.nn.mlp import activated_linear

_TIED = re.compile(r"(cls\.predictions|lm_head)\.decoder\.(weight|bias)|vocab_projector\.weight")


class BertForMaskedLM(EncoderModel):
    """Encoder that says which token stands in each place.

    ``logits = LayerNorm(f(h W + b)) Eᵀ + c`` with the word embeddings ``E`` (tied). ``f`` is the encoder's activation
    (RoBERTa and XLM-R: always GELU).

    Shapes:
        inputs as in :class:`BertModel` to logits ``[batch_size, seq_len, vocab_size]``; labels int64
        ``[batch_size, seq_len]``, -100 where nothing is to be predicted.

    Raises:
        WeightError: ``config.tie_word_embeddings`` is False.
    """

    def __init__(self, config: BertConfig) -> None:
        if not config.tie_word_embeddings:
            raise WeightError(
                "tie_word_embeddings: expected True, got False: an own output matrix is not supported"
            )
        super().__init__(config, has_pooler=False)
        activation = config.family.masked_lm_activation or config.activation
        self.transform = activated_linear(config.hidden_size, config.hidden_size, activation)
        self.transform_norm = nn.LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps)
        self.output_bias = self.create_parameter([config.vocab_size], is_bias=True)
        self._initialize()

    def head_names(self) -> Mapping[str, str]:
        """Return what files call the layers of the head."""
        return self.config.family.masked_lm

    def is_ignored(self, name: str) -> bool:
        """Whether a name is that of a copy of the tied weight or bias."""
        return super().is_ignored(name) or bool(_TIED.fullmatch(name))

    def features(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        task_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Return what is compared with the word embeddings, ``[batch_size, seq_len, hidden_size]``."""
        hidden = self.encoder(input_ids, token_type_ids, attention_mask, task_type_ids)
        return self.transform_norm(self.transform(hidden))

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        task_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of all words, float32."""
        features = self.features(input_ids, token_type_ids, attention_mask, task_type_ids)
        return paddle.matmul(features, self._words(), transpose_y=True) + self.output_bias

    def loss(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        *,
        labels: Tensor,
        **options: Any,
    ) -> Tensor:
        """Return the mean cross entropy over the labels that are not -100 (0-D); the logits are never stored.

        ``options`` go to :func:`paddle_infra.ops.linear_cross_entropy`.
        """
        features = self.features(input_ids, token_type_ids, attention_mask, task_type_ids)
        return ops.linear_cross_entropy(features, self._words(), labels, bias=self.output_bias, **options)

    def topk(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        *,
        k: int = 5,
    ) -> tuple[Tensor, Tensor]:
        """Return probabilities and ids of the ``k`` likeliest tokens of every place, ``[batch_size, seq_len, k]``.

        The logits are never stored, and nothing has a gradient.
        """
        with paddle.no_grad():
            features = self.features(input_ids, token_type_ids, attention_mask, task_type_ids)
            return ops.linear_topk(features, self._words(), k, bias=self.output_bias)

    def _words(self) -> Tensor:
        return self.encoder.embeddings.word.weight
