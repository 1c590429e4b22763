"""Encoding and one step of decoding as functions of tensors, which ``paddle.jit.save`` can store."""

from __future__ import annotations

from typing import Protocol

import paddle
from paddle import Tensor, nn

from paddle_infra.models.text_decoder import TextDecoder
from paddle_infra.nn import DecoderCache, DecoderLayerCache, KeyValueCache, MemoryCache, MultiHeadAttention


class _EncodesForText(Protocol):
    decoder: TextDecoder

    def encode(self, *inputs: Tensor) -> Tensor:
        """Return the memory."""


class EncodingStep(nn.Layer):
    """From a source or an image to the keys and values of a decoder's cross-attention.

    Args:
        model: an :class:`EncoderDecoder` or an :class:`ImageToText`, in evaluation mode.

    Shapes:
        ``L`` layers, ``B`` sequences, memory of ``M`` states, ``H`` heads of width ``D``. inputs: source_ids int64
        ``[B, S]`` or pixel_values; source_lengths int ``[B]``, or None. Results: keys and values, each
        ``[L, B, M, H, D]``.
    """

    def __init__(self, model: _EncodesForText) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, source_lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return keys and values of every layer."""
        arguments = (inputs,) if source_lengths is None else (inputs, source_lengths)
        memory = self.model.encode(*arguments)
        attentions = [layer.cross_attention for layer in self.model.decoder.stack.layers]
        return (
            paddle.stack([_split(each.key(memory), each) for each in attentions]),
            paddle.stack([_split(each.value(memory), each) for each in attentions]),
        )


def _split(projected: Tensor, attention: MultiHeadAttention) -> Tensor:
    return projected.reshape([0, 0, attention.num_kv_heads, attention.head_dim])


class DecodingStep(nn.Layer):
    """One step of a decoder: from the last token and what was kept to the next token's logits.

    A loop outside feeds what it returns back in, begins with keys and values of zeros and lengths 0, and adds one to
    the lengths after each step. It chooses tokens by itself: searches are not part of a program.

    Args:
        decoder: of a model in evaluation mode.

    Shapes:
        letters as in :class:`EncodingStep`, and room for ``C`` tokens. tokens int64 ``[B, 1]``; lengths int32
        ``[B]``: tokens before this one, below ``C``; keys and values ``[L, B, C, H, D]``; memory_keys and
        memory_values as :class:`EncodingStep` gives them, with memory_lengths int ``[B]``, for a decoder with
        cross-attention. Results: logits ``[B, vocab_size]``, keys and values with the token's.
    """

    def __init__(self, decoder: TextDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        tokens: Tensor,
        lengths: Tensor,
        keys: Tensor,
        values: Tensor,
        memory_keys: Tensor | None = None,
        memory_values: Tensor | None = None,
        memory_lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, keys and values."""
        layers = []
        for number in range(len(self.decoder.stack.layers)):
            memory = None
            if memory_keys is not None and memory_values is not None:
                memory = MemoryCache()
                memory.fill(memory_keys[number], memory_values[number], memory_lengths)
            layers.append(DecoderLayerCache(KeyValueCache.of(keys[number], values[number], lengths), memory))
        cache = DecoderCache(tuple(layers))
        hidden = self.decoder(tokens, cache=cache)
        return (
            self.decoder.logits(hidden[:, -1]),
            paddle.stack([layer.attention.keys for layer in cache.layers]),
            paddle.stack([layer.attention.values for layer in cache.layers]),
        )
