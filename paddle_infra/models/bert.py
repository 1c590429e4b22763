"""The encoder alone, and with a classifier of sequences or tokens."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.models.bert_config import BertConfig
from paddle_infra.models.encoder import EncoderModel, pooled
from paddle_infra.nn import SequenceClassificationHead, TokenClassificationHead, cls_pool, mean_pool


class BertModel(EncoderModel):
    """Encoder of any family that :class:`BertConfig` knows: BERT, MiniLM, E5, RoBERTa, XLM-R, DistilBERT, ERNIE.

    Shapes:
        input_ids, token_type_ids, attention_mask: int64 ``[batch_size, seq_len]`` to float32 hidden states
        ``[batch_size, seq_len, hidden_size]``. The states of padding are not meaningful. Token types are not used by
        DistilBERT, which has none. ``task_type_ids`` are ERNIE 3.0's, with ``config.use_task_id``.

    References:
        Devlin et al., "BERT", arXiv:1810.04805; Wang et al., "MiniLM", arXiv:2002.10957; Liu et al., "RoBERTa",
        arXiv:1907.11692; Conneau et al., "XLM-R", arXiv:1911.02116; Sanh et al., "DistilBERT", arXiv:1910.01108;
        Sun et al., "ERNIE 3.0", arXiv:2107.02137; Wang et al., "Multilingual E5", arXiv:2402.05672.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, has_pooler=config.has_pooler and config.family.has_pooler)
        self._initialize()

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        task_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states of the last layer."""
        return self.encoder(input_ids, token_type_ids, attention_mask, task_type_ids)

    def pool(self, hidden: Tensor) -> Tensor:
        """Return ``tanh(W h₀ + b)`` of the first token: ``[batch_size, hidden_size]``.

        Raises:
            InvalidInputError: the model has no pooler.
        """
        if not hasattr(self.encoder, "pooler"):
            raise InvalidInputError(
                f"expected an encoder with a pooler, got model_type={self.config.model_type!r} and "
                f"has_pooler={self.config.has_pooler}"
            )
        return pooled(self.encoder, cls_pool(hidden))


class _Classifier(EncoderModel):
    def __init__(self, config: BertConfig, *, has_pooler: bool) -> None:
        if len(config.labels) < 2:
            raise InvalidInputError(f"a classifier needs at least 2 labels, got {list(config.labels)}")
        super().__init__(config, has_pooler=has_pooler)

    def features(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        task_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Return what the head sees."""
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        task_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the logits, float32."""
        return self.head(self.features(input_ids, token_type_ids, attention_mask, task_type_ids))

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

        ``options`` go to :func:`paddle_infra.ops.linear_cross_entropy`, for instance ``label_smoothing=0.1``.
        """
        features = self.features(input_ids, token_type_ids, attention_mask, task_type_ids)
        return self.head.loss(features, labels, **options)


class BertForSequenceClassification(_Classifier):
    """Encoder and a linear head on the pooled sequence (``config.pooling``).

    ``"pooler"`` is the family's own classifier: a dense layer on the first token, with tanh (DistilBERT: ReLU), then
    the linear one. The field's library knows only this one: of a model with another pooling it can load the encoder.

    Shapes:
        inputs as in :class:`BertModel` to logits ``[batch_size, num_labels]``; labels int64 ``[batch_size]``,
        of ``config.fine_labels`` if it has any.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, has_pooler=config.pooling == "pooler")
        self.head = SequenceClassificationHead(
            config.hidden_size,
            len(config.fine_labels or config.labels),
            config.head_dropout,
            groups=config.label_groups,
        )
        self._initialize()

    def head_names(self) -> Mapping[str, str]:
        """Return what files call the layers of the head."""
        return self.config.family.sequence_head

    def features(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        task_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the pooled sequence, ``[batch_size, hidden_size]``."""
        hidden = self.encoder(input_ids, token_type_ids, attention_mask, task_type_ids)
        if self.config.pooling == "mean":
            mask = paddle.ones_like(input_ids) if attention_mask is None else attention_mask
            return mean_pool(hidden, mask)
        first = cls_pool(hidden)
        if self.config.pooling == "cls":
            return first
        if self.config.family.has_inner_dropout:
            first = F.dropout(first, self.config.head_dropout, training=self.training)
        return pooled(self.encoder, first, self.config.family.sequence_activation)


class BertForTokenClassification(_Classifier):
    """Encoder and a linear head on every token.

    Shapes:
        inputs as in :class:`BertModel` to logits ``[batch_size, seq_len, num_labels]``; labels int64
        ``[batch_size, seq_len]``, -100 where a token does not count.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, has_pooler=False)
        self.head = TokenClassificationHead(config.hidden_size, len(config.labels), config.head_dropout)
        self._initialize()

    def head_names(self) -> Mapping[str, str]:
        """Return what files call the layers of the head."""
        return MappingProxyType({"classifier": "classifier"})

    def features(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        task_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states, ``[batch_size, seq_len, hidden_size]``."""
        return self.encoder(input_ids, token_type_ids, attention_mask, task_type_ids)
