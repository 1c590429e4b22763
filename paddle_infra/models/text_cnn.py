"""A convolutional classifier of sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle
from paddle import Tensor, nn

from paddle_infra._core.checks import check_number, check_positive, check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.config import ModelConfig
from paddle_infra.nn import ConvBlock1D, SequenceClassificationHead, max_pool


@dataclass(frozen=True)
class TextCNNConfig(ModelConfig):
    """Sizes of a :class:`TextCNN`; the defaults are Kim's.

    ``filter_sizes`` are the widths of the windows in tokens, ``num_filters`` the filters of each; ``labels`` the class
    names in order of their ids; ``freeze_embeddings`` keeps the word vectors as they are (Kim's "static").
    """

    model_type = "text_cnn"
    vocab_size: int = 30000
    embedding_size: int = 300
    filter_sizes: tuple[int, ...] = (3, 4, 5)
    num_filters: int = 100
    dropout: float = 0.5
    freeze_embeddings: bool = False
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("vocab_size", "embedding_size", "num_filters"):
            check_positive(name, getattr(self, name))
        if not self.filter_sizes:
            raise InvalidInputError("filter_sizes: expected at least one, got none")
        check_number("dropout", self.dropout, 0.0, 1.0)


class TextCNN(PretrainedModel):
    """Word embedding, convolutions of several widths, the largest value of each filter over the tokens, a linear head.

    Word vectors learned elsewhere are put in with ``model.embedding.weight.set_value``.

    Shapes:
        input_ids int64 ``[batch_size, seq_len]``; attention_mask ``[batch_size, seq_len]`` (1 = token) or None (no
        padding); logits ``[batch_size, num_labels]``; labels int64 ``[batch_size]``. Padding has no effect.

    References:
        Kim, "Convolutional Neural Networks for Sentence Classification", arXiv:1408.5882, section 2. Windows are
        centred on each token and see zeros beyond the ends, so that short sentences have them too. One channel of word
        vectors; no bound on the norm of the weights.
    """

    config_class = TextCNNConfig

    def __init__(self, config: TextCNNConfig) -> None:
        if len(config.labels) < 2:
            raise InvalidInputError(f"labels: expected at least 2 names, got {list(config.labels)}")
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        nn.initializer.Uniform(-0.25, 0.25)(self.embedding.weight)
        self.embedding.weight.stop_gradient = config.freeze_embeddings
        self.convolutions = nn.LayerList(
            [ConvBlock1D(config.embedding_size, config.num_filters, width) for width in config.filter_sizes]
        )
        width = config.num_filters * len(config.filter_sizes)
        self.head = SequenceClassificationHead(width, len(config.labels), config.dropout)

    def features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return what the head sees, ``[batch_size, num_filters * len(filter_sizes)]``."""
        check_tensor("input_ids", input_ids, ("int32", "int64"))
        check_shape("input_ids", input_ids, [-1, -1], "[batch_size, seq_len]")
        hidden = self.embedding(input_ids)
        mask = paddle.ones_like(input_ids) if attention_mask is None else attention_mask
        return paddle.concat(
            [max_pool(convolution(hidden, mask), mask) for convolution in self.convolutions], axis=-1
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the logits."""
        return self.head(self.features(input_ids, attention_mask))

    def loss(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, labels: Tensor, **options: Any
    ) -> Tensor:
        """Return the mean cross entropy (0-D); ``options`` as in :func:`paddle_infra.ops.linear_cross_entropy`."""
        return self.head.loss(self.features(input_ids, attention_mask), labels, **options)
