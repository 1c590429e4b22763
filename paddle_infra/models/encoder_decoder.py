"""The Transformer encoder-decoder: from a sequence to another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle
from paddle import Tensor

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.generation import Generation
from paddle_infra.models.text_decoder import (
    TextDecoder,
    TextDecoderConfig,
    layer_options,
    new_embedding,
    new_rotary,
)
from paddle_infra.nn import TransformerEncoder


@dataclass(frozen=True)
class EncoderDecoderConfig(TextDecoderConfig):
    """Configuration of :class:`EncoderDecoder`: a decoder's and what is special to the encoder.

    ``num_layers`` and the other sizes hold for the decoder; the encoder has ``num_encoder_layers`` of the same sizes.
    ``share_embeddings`` uses one embedding on both sides; otherwise the source has ``source_vocab_size`` tokens
    (None: ``vocab_size``).
    """

    model_type = "paddle_infra_encoder_decoder"
    num_encoder_layers: int = 6
    share_embeddings: bool = True
    source_vocab_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share_embeddings and self.source_vocab_size not in (None, self.vocab_size):
            raise InvalidInputError(
                f"source_vocab_size: expected None or vocab_size={self.vocab_size} when embeddings are shared, "
                f"got {self.source_vocab_size}"
            )


class EncoderDecoder(PretrainedModel):
    """Transformer encoder-decoder, with post-norm or pre-norm, for translation, correction, summaries.

    Shapes:
        ``B`` pairs of a source of ``S`` tokens and a target of ``T``. source_ids int64 ``[B, S]``, right-padded with
        any tokens; source_lengths int ``[B]``, None: all tokens exist; labels int64 ``[B, T]``, the target's tokens
        with ``end_id`` last and -100 behind them. No result depends on padding.

    References:
        Vaswani et al., "Attention Is All You Need", arXiv:1706.03762: the defaults of the configuration. There,
        dropout is on embeddings and sub-layers as here; label smoothing, section 5.4.
    """

    config_class = EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__(config)
        self.source_embedding = (
            None
            if config.share_embeddings
            else new_embedding(config, config.source_vocab_size or config.vocab_size)
        )
        self.encoder = TransformerEncoder(
            config.num_encoder_layers,
            config.hidden_size,
            config.num_heads,
            config.intermediate_size,
            num_kv_heads=config.num_kv_heads,
            rotary=new_rotary(config),
            **layer_options(config),
        )
        self.decoder = TextDecoder(config, cross_attention=True)

    def encode(self, source_ids: Tensor, source_lengths: Tensor | None = None) -> Tensor:
        """Return the encoder's states ``[B, S, hidden_size]``; those of padding are not meaningful."""
        embed = self.decoder.embedding if self.source_embedding is None else self.source_embedding
        return self.encoder(embed(source_ids), kv_lengths=source_lengths)

    def features(
        self, source_ids: Tensor, target_ids: Tensor, source_lengths: Tensor | None = None
    ) -> Tensor:
        """Return the decoder's states ``[B, T, hidden_size]``; ``target_ids`` begin with ``begin_id``."""
        memory = self.encode(source_ids, source_lengths)
        return self.decoder(target_ids, memory=memory, memory_lengths=source_lengths)

    def forward(self, source_ids: Tensor, target_ids: Tensor, source_lengths: Tensor | None = None) -> Tensor:
        """Return the logits ``[B, T, vocab_size]`` of the tokens that follow each of ``target_ids``."""
        return self.decoder.logits(self.features(source_ids, target_ids, source_lengths))

    def loss(
        self, source_ids: Tensor, labels: Tensor, source_lengths: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Return the mean cross entropy of the target's tokens (0-D); see :meth:`TextDecoder.loss`."""
        hidden = self.features(source_ids, self.decoder.shifted(labels), source_lengths)
        return self.decoder.loss(hidden, labels, **options)

    def generate(
        self, source_ids: Tensor, source_lengths: Tensor | None = None, **options: Any
    ) -> Generation:
        """Return targets for the sources.

        Args:
            source_ids: see above.
            source_lengths: see above.
            options: of :meth:`TextDecoder.generate`: ``method``, ``max_new_tokens``, ``prompt``, …

        Raises:
            UnsupportedError: the model is in training mode.
        """
        with paddle.no_grad():
            memory = self.encode(source_ids, source_lengths)
        return self.decoder.generate(memory=memory, memory_lengths=source_lengths, **options)
