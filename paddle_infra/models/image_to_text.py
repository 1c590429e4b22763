"""Image to text: a Vision Transformer and a text decoder that attends to its states."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import Tensor

from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.config import ModelConfig
from paddle_infra.models.generation import Generation
from paddle_infra.models.text_decoder import TextDecoder, TextDecoderConfig
from paddle_infra.models.vit import ViTConfig, ViTEncoder


@dataclass(frozen=True)
class ImageToTextConfig(ModelConfig):
    """Configuration of :class:`ImageToText`: that of its encoder and that of its decoder."""

    model_type = "paddle_infra_image_to_text"
    image: ViTConfig = field(default_factory=ViTConfig)
    text: TextDecoderConfig = field(default_factory=TextDecoderConfig)


class ImageToText(PretrainedModel):
    """Vision Transformer encoder and Transformer decoder, for captions or reading text.

    Shapes:
        pixel_values as in :class:`ViTEncoder`; labels int64 ``[B, T]``, the text's tokens with ``end_id`` last and -100
        behind them. No result depends on padding.

    References:
        A pretrained encoder and decoder with cross-attention, as in TrOCR, arXiv:2109.10282, section 3.
    """

    config_class = ImageToTextConfig

    def __init__(self, config: ImageToTextConfig) -> None:
        super().__init__(config)
        self.encoder = ViTEncoder(config.image)
        self.decoder = TextDecoder(config.text, cross_attention=True, memory_size=config.image.hidden_size)

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Return the encoder's states ``[B, 1 + patches, image.hidden_size]``."""
        return self.encoder(pixel_values)

    def features(self, pixel_values: Tensor, target_ids: Tensor) -> Tensor:
        """Return the decoder's states ``[B, T, text.hidden_size]``; ``target_ids`` begin with ``begin_id``."""
        return self.decoder(target_ids, memory=self.encode(pixel_values))

    def forward(self, pixel_values: Tensor, target_ids: Tensor) -> Tensor:
        """Return the logits ``[B, T, vocab_size]`` of the tokens that follow each of ``target_ids``."""
        return self.decoder.logits(self.features(pixel_values, target_ids))

    def loss(self, pixel_values: Tensor, labels: Tensor, **options: Any) -> Tensor:
        """Return the mean cross entropy of the text's tokens (0-D); see :meth:`TextDecoder.loss`."""
        hidden = self.features(pixel_values, self.decoder.shifted(labels))
        return self.decoder.loss(hidden, labels, **options)

    def generate(self, pixel_values: Tensor, **options: Any) -> Generation:
        """Return texts for the images; options of :meth:`TextDecoder.generate`."""
        with paddle.no_grad():
            memory = self.encode(pixel_values)
        return self.decoder.generate(memory=memory, **options)
