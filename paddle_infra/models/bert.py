"""The BERT encoder and its classifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.bert_config import BertConfig
from paddle_infra.models.bert_names import checkpoint_name, is_transposed
from paddle_infra.nn import (
    SequenceClassificationHead,
    TokenClassificationHead,
    TransformerEmbedding,
    TransformerEncoder,
    cls_pool,
    key_padding_mask,
    mean_pool,
)


class _Encoder(nn.Layer):
    """Embeddings, Transformer stack and pooler: the part that all BERT models share."""

    def __init__(self, config: BertConfig, *, has_pooler: bool) -> None:
        super().__init__()
        self.embeddings = TransformerEmbedding(
            config.vocab_size,
            config.hidden_size,
            config.max_position_embeddings,
            config.type_vocab_size,
            dropout=config.hidden_dropout_prob,
            epsilon=config.layer_norm_eps,
        )
        self.stack = TransformerEncoder(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            activation=config.hidden_act,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            epsilon=config.layer_norm_eps,
        )
        if has_pooler:
            self.pooler = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None, attention_mask: Tensor | None
    ) -> Tensor:
        bias = None if attention_mask is None else key_padding_mask(attention_mask)
        return self.stack(self.embeddings(input_ids, token_type_ids), bias)


class _Pretrained(PretrainedModel):
    """Names in checkpoints and initial weights."""

    config_class = BertConfig
    ignores_unexpected = True  # a head of another task, a pooler

    def __init__(self, config: BertConfig, *, has_pooler: bool) -> None:
        super().__init__(config)
        self.encoder = _Encoder(config, has_pooler=has_pooler)

    def _initialize(self) -> None:
        """Draw all weights as BERT does: normal for matrices, 0 for biases, norms untouched."""
        normal = nn.initializer.Normal(0.0, self.config.initializer_range)
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear | nn.Embedding):
                normal(layer.weight)
                if getattr(layer, "bias", None) is not None:
                    nn.initializer.Constant(0.0)(layer.bias)

    def checkpoint_names(self, name: str) -> tuple[str, ...]:
        """Return the field's name of a parameter, and the one in a file of the bare encoder."""
        full = checkpoint_name(name)
        return full, full.removeprefix("bert.")

    def is_transposed(self, name: str) -> bool:
        """Whether the parameter is the weight of a Linear layer."""
        return is_transposed(name)

    def adapted(self, name: str, value: np.ndarray, shape: list[int]) -> np.ndarray:
        """Repeat token type 0 if the model has more types than the file, so that these are at first the same."""
        is_short = name.endswith("token_type.weight") and 0 < value.shape[0] < shape[0]
        if not (is_short and value.shape[1:] == tuple(shape[1:])):
            return value
        return np.concatenate([value, np.repeat(value[:1], shape[0] - value.shape[0], axis=0)])


class BertModel(_Pretrained):
    """BERT encoder.

    Shapes:
        input_ids, token_type_ids, attention_mask: int64 ``[batch_size, seq_len]`` to float32 hidden states
        ``[batch_size, seq_len, hidden_size]``. The states of padding are not meaningful.

    References:
        Devlin et al., "BERT", arXiv:1810.04805; Wang et al., "MiniLM", arXiv:2002.10957.
    """

    new_parts = ("bert.pooler.",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, has_pooler=True)
        self._initialize()

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Return the hidden states of the last layer."""
        return self.encoder(input_ids, token_type_ids, attention_mask)

    def pool(self, hidden: Tensor) -> Tensor:
        """Return ``tanh(W h₀ + b)`` of the first token: ``[batch_size, hidden_size]``."""
        return F.tanh(self.encoder.pooler(cls_pool(hidden)))


class _Classifier(_Pretrained):
    def __init__(self, config: BertConfig, *, has_pooler: bool) -> None:
        if len(config.labels) < 2:
            raise InvalidInputError(f"a classifier needs at least 2 labels, got {list(config.labels)}")
        super().__init__(config, has_pooler=has_pooler)

    def features(
        self, input_ids: Tensor, token_type_ids: Tensor | None, attention_mask: Tensor | None
    ) -> Tensor:
        """Return what the head sees."""
        raise NotImplementedError

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Return the logits, float32."""
        return self.head(self.features(input_ids, token_type_ids, attention_mask))

    def loss(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        labels: Tensor,
        **options: Any,
    ) -> Tensor:
        """Return the mean cross entropy over the labels that are not -100 (0-D); the logits are never stored.

        ``options`` go to :func:`paddle_infra.ops.linear_cross_entropy`, for instance ``label_smoothing=0.1``.
        """
        return self.head.loss(self.features(input_ids, token_type_ids, attention_mask), labels, **options)


class BertForSequenceClassification(_Classifier):
    """BERT and a linear head on the pooled sequence (``config.pooling``).

    Shapes:
        inputs as in :class:`BertModel` to logits ``[batch_size, num_labels]``; labels int64 ``[batch_size]``,
        of ``config.fine_labels`` if it has any.
    """

    new_parts = ("classifier.", "bert.pooler.")

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, has_pooler=config.pooling == "pooler")
        self.head = SequenceClassificationHead(
            config.hidden_size,
            len(config.fine_labels or config.labels),
            config.hidden_dropout_prob,
            groups=config.label_groups,
        )
        self._initialize()

    def features(
        self, input_ids: Tensor, token_type_ids: Tensor | None, attention_mask: Tensor | None
    ) -> Tensor:
        """Return the pooled sequence, ``[batch_size, hidden_size]``."""
        hidden = self.encoder(input_ids, token_type_ids, attention_mask)
        if self.config.pooling == "mean":
            mask = paddle.ones_like(input_ids) if attention_mask is None else attention_mask
            return mean_pool(hidden, mask)
        first = cls_pool(hidden)
        return F.tanh(self.encoder.pooler(first)) if self.config.pooling == "pooler" else first


class BertForTokenClassification(_Classifier):
    """BERT and a linear head on every token.

    Shapes:
        inputs as in :class:`BertModel` to logits ``[batch_size, seq_len, num_labels]``; labels int64
        ``[batch_size, seq_len]``, -100 where a token does not count.
    """

    new_parts = ("classifier.",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, has_pooler=False)
        self.head = TokenClassificationHead(
            config.hidden_size, len(config.labels), config.hidden_dropout_prob
        )
        self._initialize()

    def features(
        self, input_ids: Tensor, token_type_ids: Tensor | None, attention_mask: Tensor | None
    ) -> Tensor:
        """Return the hidden states, ``[batch_size, seq_len, hidden_size]``."""
        return self.encoder(input_ids, token_type_ids, attention_mask)
