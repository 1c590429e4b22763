"""A decoder-only language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from paddle import Tensor

from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.generation import Generation
from paddle_infra.models.text_decoder import TextDecoder, TextDecoderConfig


@dataclass(frozen=True)
class CausalLanguageModelConfig(TextDecoderConfig):
    """Configuration of :class:`CausalLanguageModel`; the defaults are LLaMA-like parts in a small size."""

    model_type = "paddle_infra_causal_language_model"
    num_kv_heads: int | None = 4
    intermediate_size: int = 1376
    activation: str = "swiglu"
    dropout: float = 0.0
    positions: str = "rotary"
    norm: str = "rms"
    norm_first: bool = True
    use_bias: bool = False
    scale_embedding: bool = False
    label_smoothing: float = 0.0


class CausalLanguageModel(PretrainedModel):
    """Language model that predicts each token from those before it.

    Shapes:
        input_ids int64 ``[B, T]`` to logits ``[B, T, vocab_size]``; labels int64 ``[B, T]``: the tokens
        themselves, -100 where there is padding.

    References:
        LLaMA, arXiv:2302.13971, section 2.2, with grouped queries (arXiv:2305.13245) and a tied output.
    """

    config_class = CausalLanguageModelConfig

    def __init__(self, config: CausalLanguageModelConfig) -> None:
        super().__init__(config)
        self.decoder = TextDecoder(config, cross_attention=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits of the tokens that follow."""
        return self.decoder.logits(self.decoder(input_ids))

    def loss(self, labels: Tensor, **options: Any) -> Tensor:
        """Return the mean cross entropy of all tokens, the first after ``begin_id``; see :meth:`TextDecoder.loss`."""
        return self.decoder.loss(self.decoder(self.decoder.shifted(labels)), labels, **options)

    def generate(self, prompt: Tensor, prompt_lengths: Tensor | None = None, **options: Any) -> Generation:
        """Return continuations of the prompts; options of :meth:`TextDecoder.generate`."""
        return self.decoder.generate(prompt, prompt_lengths, **options)
