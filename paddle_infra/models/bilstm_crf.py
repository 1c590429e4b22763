"""A tagger of words: recurrent layers in both directions and a conditional random field."""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.checks import check_choice, check_number, check_positive, check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.config import ModelConfig
from paddle_infra.nn import CRF, LSTM, ConvBlock1D, length_mask, max_pool, tag_constraints


@dataclass(frozen=True)
class BiLSTMCRFConfig(ModelConfig):
    """Sizes of a :class:`BiLSTMCRF`; the defaults are Ma and Hovy's, with character features switched off.

    ``vocab_size`` 0: words come as vectors ``embedding_size`` wide. ``char_vocab_size`` 0: no character features.
    ``hidden_size`` is that of one direction. ``labels`` are the tags in order of their ids; ``scheme``, if given
    (``"iob1"``, ``"iob2"`` or ``"bioes"``), lets the model decode only what that tagging scheme allows.
    """

    model_type = "bilstm_crf"
    vocab_size: int = 30000
    embedding_size: int = 100
    char_vocab_size: int = 0
    char_embedding_size: int = 30
    char_filters: int = 30
    char_filter_size: int = 3
    hidden_size: int = 200
    num_layers: int = 1
    dropout: float = 0.5
    scheme: str | None = None
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("vocab_size", "char_vocab_size"):
            if getattr(self, name) != 0:
                check_positive(name, getattr(self, name))
        for name in ("embedding_size", "char_embedding_size", "char_filters", "hidden_size", "num_layers"):
            check_positive(name, getattr(self, name))
        check_number("dropout", self.dropout, 0.0, 1.0)
        if self.scheme is not None:
            check_choice("scheme", self.scheme, ("iob1", "iob2", "bioes"))


class CharacterCNN(nn.Layer):
    """A vector for each word from its letters: embedding, convolution, the largest value of each filter.

    Args:
        vocab_size: number of characters; id 0 is padding.
        embedding_size: width of a character's vector.
        num_filters: width of the result.
        filter_size: characters that one filter sees.

    Shapes:
        int64 ``[batch_size, seq_len, word_len]`` to ``[batch_size, seq_len, num_filters]``; zeros for a word without
        characters.

    References:
        Ma and Hovy, arXiv:1603.01354, section 2.1; with ReLU.
    """

    def __init__(self, vocab_size: int, embedding_size: int, num_filters: int, filter_size: int) -> None:
        super().__init__()
        self.num_filters = num_filters
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        nn.initializer.Uniform(-((3 / embedding_size) ** 0.5), (3 / embedding_size) ** 0.5)(
            self.embedding.weight
        )
        self.convolution = ConvBlock1D(embedding_size, num_filters, filter_size)

    def forward(self, char_ids: Tensor) -> Tensor:
        """Return the words' vectors."""
        words = char_ids.flatten(0, 1)
        vectors = max_pool(self.convolution(self.embedding(words), words != 0), words != 0)
        shape = paddle.shape(char_ids)
        return vectors.reshape([shape[0], shape[1], self.num_filters])


class BiLSTMCRF(PretrainedModel):
    """Word vectors (and characters'), a bidirectional LSTM, a linear layer, a :class:`paddle_infra.nn.CRF`.

    Word vectors learned elsewhere are put in with ``model.embedding.weight.set_value``, or with ``vocab_size=0`` given
    to the model in place of ids.

    Shapes:
        words int64 ``[batch_size, seq_len]``, or float ``[batch_size, seq_len, embedding_size]`` if ``vocab_size`` is
        0; attention_mask ``[batch_size, seq_len]`` (1 = word, padding on the right) or None (no padding); char_ids
        int64 ``[batch_size, seq_len, word_len]`` if ``char_vocab_size`` is not 0, 0 = padding; emissions
        ``[batch_size, seq_len, num_labels]``; labels int64 ``[batch_size, seq_len]``, anything at padding. Padding has
        no effect.

    References:
        Huang et al., arXiv:1508.01991, section 2.5; Ma and Hovy, arXiv:1603.01354. Dropout before and after the LSTM.
    """

    config_class = BiLSTMCRFConfig

    def __init__(self, config: BiLSTMCRFConfig) -> None:
        if len(config.labels) < 2:
            raise InvalidInputError(f"labels: expected at least 2 tags, got {list(config.labels)}")
        super().__init__(config)
        width = config.embedding_size
        self.embedding: nn.Layer | None = None
        if config.vocab_size:
            self.embedding = nn.Embedding(config.vocab_size, width)
            nn.initializer.Uniform(-((3 / width) ** 0.5), (3 / width) ** 0.5)(self.embedding.weight)
        self.characters: nn.Layer | None = None
        if config.char_vocab_size:
            self.characters = CharacterCNN(
                config.char_vocab_size,
                config.char_embedding_size,
                config.char_filters,
                config.char_filter_size,
            )
            width += config.char_filters
        self.lstm = LSTM(
            width,
            config.hidden_size,
            num_layers=config.num_layers,
            bidirectional=True,
            dropout=config.dropout,
        )
        self.output = nn.Linear(self.lstm.output_size, len(config.labels))
        constraints = None if config.scheme is None else tag_constraints(config.labels, config.scheme)  # type: ignore[arg-type]
        self.crf = CRF(len(config.labels), constraints)

    def forward(
        self, words: Tensor, attention_mask: Tensor | None = None, char_ids: Tensor | None = None
    ) -> Tensor:
        """Return the emissions; at padding they mean nothing."""
        return self._emissions(words, self.lengths(words, attention_mask), char_ids)

    def loss(
        self,
        words: Tensor,
        attention_mask: Tensor | None = None,
        char_ids: Tensor | None = None,
        *,
        labels: Tensor,
        reduction: str = "mean",
    ) -> Tensor:
        """Return the negative log-likelihood of the tags; ``reduction`` as in :meth:`paddle_infra.nn.CRF.loss`."""
        lengths = self.lengths(words, attention_mask)
        return self.crf.loss(self._emissions(words, lengths, char_ids), labels, lengths, reduction)

    def decode(
        self, words: Tensor, attention_mask: Tensor | None = None, char_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the most probable tags, int64 ``[batch_size, seq_len]``, 0 at padding, and the lengths."""
        lengths = self.lengths(words, attention_mask)
        return self.crf(self._emissions(words, lengths, char_ids), lengths), lengths

    def lengths(self, words: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return how many words each row has: int64 ``[batch_size]``.

        Raises:
            InvalidInputError: the mask has another shape, or padding that is not on the right (not checked in a
                program).
        """
        if attention_mask is None:
            attention_mask = paddle.ones(paddle.shape(words)[:2], dtype="int64")
        check_shape("attention_mask", attention_mask, words.shape[:2], "[batch_size, seq_len]")
        mask = attention_mask != 0
        lengths = mask.astype("int64").sum(axis=1)
        if paddle.in_dynamic_mode():
            wrong = (mask != length_mask(lengths, mask)).any(axis=1)
            if bool(wrong.any()):
                row = int(wrong.astype("int64").argmax())
                raise InvalidInputError(
                    f"attention_mask: expected padding on the right, got {attention_mask[row].tolist()} in row {row}"
                )
        return lengths

    def _emissions(self, words: Tensor, lengths: Tensor, char_ids: Tensor | None) -> Tensor:
        self._check(words, char_ids)
        hidden = words if self.embedding is None else self.embedding(words)
        if self.characters is not None:
            hidden = paddle.concat([hidden, self.characters(char_ids)], axis=-1)
        return self.output(self._drop(self.lstm(self._drop(hidden), lengths)[0]))

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.config.dropout, training=self.training)

    def _check(self, words: Tensor, char_ids: Tensor | None) -> None:
        if self.embedding is None:
            check_tensor("words", words, ("float32", "float64"))
            shape = [-1, -1, self.config.embedding_size]
            check_shape("words", words, shape, "[batch_size, seq_len, embedding_size]")
        else:
            check_tensor("words", words, ("int32", "int64"))
            check_shape("words", words, [-1, -1], "[batch_size, seq_len]")
        if (char_ids is None) != (self.characters is None):
            expected = "None (char_vocab_size is 0)" if self.characters is None else "a tensor"
            raise InvalidInputError(f"char_ids: expected {expected}, got {type(char_ids).__name__}")
        if char_ids is not None:
            check_tensor("char_ids", char_ids, ("int32", "int64"))
            check_shape("char_ids", char_ids, [*words.shape[:2], -1], "[batch_size, seq_len, word_len]")
