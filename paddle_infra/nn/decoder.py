"""Transformer decoder: layer and stack."""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

from paddle_infra._core.checks import check_positive
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.attention import MultiHeadAttention
from paddle_infra.nn.cache import DecoderCache, DecoderLayerCache, MemoryCache
from paddle_infra.nn.linear import Linear
from paddle_infra.nn.mlp import activated_linear
from paddle_infra.nn.norm import NormName
from paddle_infra.nn.residual import ResidualLayer, depth_rates
from paddle_infra.nn.transformer import final_norm


class TransformerDecoderLayer(ResidualLayer):
    """Causal self-attention, cross-attention to a memory, and a perceptron, each with a residual and a norm.

    Args:
        hidden_size: width of input and output.
        num_heads: attention heads.
        intermediate_size: width of the perceptron's inner layer.
        activation: as in :class:`TransformerEncoderLayer`.
        dropout: dropout probability after each sub-layer.
        attention_dropout: dropout probability on the attention weights.
        epsilon: added to the variance or mean square in the norms.
        cross_attention: whether there is cross-attention; without it, this is a layer of a language model.
        memory_size: width of the memory; None: ``hidden_size``.
        norm: ``"layer"`` or ``"rms"``.
        norm_first: put the norms before the sub-layers (pre-norm).
        drop_path: probability of leaving a sub-layer out for a sample in training (see :class:`DropPath`).
        use_bias: give the linear layers a bias.
        attention: further arguments of the self-attention: ``num_kv_heads``, ``head_dim``, ``window``, ``rotary``,
            ``alibi``. Cross-attention takes ``num_kv_heads`` and ``head_dim`` of them.

    Shapes:
        hidden ``[batch_size, seq_len, hidden_size]`` to the same; memory ``[batch_size, memory_len, memory_size]``;
        bias and lengths as in :class:`MultiHeadAttention`.

    References:
        Vaswani et al., arXiv:1706.03762, section 3.1; pre-norm, arXiv:2002.04745.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        activation: str = "gelu",
        *,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        epsilon: float = 1e-5,
        cross_attention: bool = True,
        memory_size: int | None = None,
        norm: NormName = "layer",
        norm_first: bool = False,
        drop_path: float = 0.0,
        use_bias: bool = True,
        **attention: Any,
    ) -> None:
        super().__init__(
            hidden_size,
            dropout=dropout,
            epsilon=epsilon,
            norm=norm,
            norm_first=norm_first,
            drop_path=drop_path,
        )
        if memory_size is not None and not cross_attention:
            raise InvalidInputError(f"memory_size: expected None without cross-attention, got {memory_size}")
        self.attention = MultiHeadAttention(
            hidden_size, num_heads, attention_dropout, causal=True, use_bias=use_bias, **attention
        )
        self.attention_norm = self._new_norm()
        self.has_cross_attention = cross_attention
        if cross_attention:
            self.cross_attention = MultiHeadAttention(
                hidden_size,
                num_heads,
                attention_dropout,
                num_kv_heads=attention.get("num_kv_heads"),
                head_dim=attention.get("head_dim"),
                memory_size=memory_size,
                use_bias=use_bias,
            )
            self.cross_attention_norm = self._new_norm()
        self.intermediate = activated_linear(hidden_size, intermediate_size, activation, use_bias=use_bias)
        self.output = Linear(intermediate_size, hidden_size, bias_attr=None if use_bias else False)
        self.output_norm = self._new_norm()

    def new_cache(self, batch_size: int, capacity: int) -> DecoderLayerCache:
        """Return an empty cache for ``capacity`` tokens of each sequence."""
        memory = MemoryCache() if self.has_cross_attention else None
        return DecoderLayerCache(self.attention.new_cache(batch_size, capacity), memory)

    def forward(
        self,
        hidden: Tensor,
        bias: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_bias: Tensor | None = None,
        kv_lengths: Tensor | None = None,
        memory_lengths: Tensor | None = None,
        cache: DecoderLayerCache | None = None,
    ) -> Tensor:
        """Return the layer's output.

        Args:
            hidden: the tokens' states; with a cache, those of the new tokens.
            bias: of the self-attention.
            memory: needed if there is cross-attention, with a cache in the first call only.
            memory_bias: of the cross-attention.
            kv_lengths: how many tokens of ``hidden`` exist in each sequence (right-padded).
            memory_lengths: how many states of ``memory`` exist.
            cache: from :meth:`new_cache`; see :class:`MultiHeadAttention`.

        Raises:
            InvalidInputError: a memory without cross-attention or the reverse, and as :class:`MultiHeadAttention`.
        """
        self._check_memory(memory, cache)
        own, of_memory = (None, None) if cache is None else (cache.attention, cache.memory)
        branch = self.attention(
            self._begin(hidden, self.attention_norm), bias, kv_lengths=kv_lengths, cache=own
        )
        stream, norm = hidden, self.attention_norm
        if self.has_cross_attention:
            branch, stream = self._go_on(branch, stream, norm, self.cross_attention_norm)
            branch = self.cross_attention(
                branch, memory_bias, memory=memory, kv_lengths=memory_lengths, cache=of_memory
            )
            norm = self.cross_attention_norm
        branch, stream = self._go_on(branch, stream, norm, self.output_norm)
        return self._end(self.output(self.intermediate(branch)), stream, self.output_norm)

    def _check_memory(self, memory: Tensor | None, cache: DecoderLayerCache | None) -> None:
        is_kept = cache is not None and cache.memory is not None and not cache.memory.is_empty
        if self.has_cross_attention and memory is None and not is_kept:
            raise InvalidInputError("memory: expected a tensor for the cross-attention, got None")
        if not self.has_cross_attention and memory is not None:
            raise InvalidInputError(
                "memory: expected None in a decoder without cross-attention, got a tensor"
            )


class TransformerDecoder(nn.Layer):
    """A stack of :class:`TransformerDecoderLayer`; arguments and shapes as there.

    In pre-norm a last norm, ``norm``, follows. ``drop_path`` is the last layer's probability; those before have
    evenly less, the first 0.

    Generating, for right-padded prompts of different lengths, in evaluation mode and under ``paddle.no_grad()``::

        cache = decoder.new_cache(batch_size, capacity)
        states = decoder(embed(prompt), memory=memory, memory_lengths=memory_lengths, kv_lengths=lengths, cache=cache)
        token = choose(states)                  # from each prompt's last state, at lengths - 1: [batch_size, 1]
        while wanted:
            states = decoder(embed(token, lengths=cache.lengths), cache=cache)
            token = choose(states)              # cache.reorder(beams) first, if beams were kept and dropped
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        *,
        drop_path: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        check_positive("num_layers", num_layers)
        self.layers = nn.LayerList(
            [
                TransformerDecoderLayer(hidden_size, num_heads, intermediate_size, drop_path=rate, **options)
                for rate in depth_rates(drop_path, num_layers)
            ]
        )
        self.norm = final_norm(self.layers[0])

    def new_cache(self, batch_size: int, capacity: int) -> DecoderCache:
        """Return an empty cache for ``capacity`` tokens of each sequence."""
        return DecoderCache(tuple(layer.new_cache(batch_size, capacity) for layer in self.layers))

    def forward(
        self,
        hidden: Tensor,
        bias: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_bias: Tensor | None = None,
        kv_lengths: Tensor | None = None,
        memory_lengths: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Return the last layer's output, in pre-norm its norm; arguments as of the layers."""
        if cache is not None and len(cache.layers) != len(self.layers):
            raise InvalidInputError(
                f"cache: expected one of {len(self.layers)} layers, got one of {len(cache.layers)}"
            )
        for number, layer in enumerate(self.layers):
            hidden = layer(
                hidden,
                bias,
                memory=memory,
                memory_bias=memory_bias,
                kv_lengths=kv_lengths,
                memory_lengths=memory_lengths,
                cache=None if cache is None else cache.layers[number],
            )
        return hidden if self.norm is None else self.norm(hidden)
