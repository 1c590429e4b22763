"""Multi-head attention as a Layer: of a sequence to itself, to a memory, or to a cache."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn
from paddle.jit.marker import unified

from paddle_infra import ops
from paddle_infra._core.checks import UNKNOWN, check_positive, check_shape, dtype_name
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra.nn.cache import KeyValueCache, MemoryCache
from paddle_infra.nn.linear import Linear
from paddle_infra.nn.positions import alibi_slopes, next_positions
from paddle_infra.nn.rotary import RotaryEmbedding
from paddle_infra.nn.sizes import size_of
from paddle_infra.ops.attention import Window


def key_padding_mask(attention_mask: Tensor) -> Tensor:
    """Turn a padding mask into one that says which keys every query sees.

    Args:
        attention_mask: integers ``[batch_size, seq_len]``, 1 = token, 0 = padding.

    Returns:
        bool ``[batch_size, 1, 1, seq_len]``, broadcast over heads and queries.
    """
    return (attention_mask != 0).unsqueeze([1, 2])


class MultiHeadAttention(nn.Layer):
    r"""Scaled dot-product attention with several heads: self-attention, or cross-attention to a memory.

    ``softmax(Q Kᵀ / √head_dim + bias) V``, then an output projection; the scores are never stored (see
    :func:`paddle_infra.ops.attention`). Queries come from ``hidden``; keys and values from ``hidden`` too, or from
    ``memory``.

    Args:
        hidden_size: width of input and output; a multiple of ``num_heads`` unless ``head_dim`` is given.
        num_heads: number of heads.
        dropout: dropout probability on the attention weights.
        num_kv_heads: heads of keys and values, a divisor of ``num_heads``: fewer are shared by neighbouring queries'
            heads (grouped-query attention; 1: multi-query). None: as many.
        head_dim: width of a head; None: ``hidden_size / num_heads``.
        memory_size: width of the memory; None: ``hidden_size``.
        causal: hide the keys after each query. Needed with a cache; not for cross-attention.
        window: how many keys to the left and right a query sees, as in :func:`paddle_infra.ops.attention`.
        use_bias: give the projections a bias.
        rotary: turns queries and keys by their positions.
        alibi: lower the scores with the distance, by :func:`alibi_slopes`.

    Attributes:
        prefix: None, or a Layer that is called with the batch size (a 0-D tensor inside a program of unknown batch
            size) and returns keys and values, each ``[batch_size, P, num_kv_heads, head_dim]``: they are put before
            those of the sequence or memory, every query sees them, and they count as no positions. Not together with
            ``window`` or ``alibi``.

    Shapes:
        hidden ``[batch_size, seq_len, hidden_size]``; memory ``[batch_size, memory_len, memory_size]``; bias
        broadcastable to ``[batch_size, num_heads, seq_len, keys]``, float (added to the scores) or bool (True: seen),
        or None; ``kv_lengths`` int ``[batch_size]``; result as hidden. ``keys`` is ``seq_len``, or ``memory_len``, or
        the capacity of the cache if that holds tokens already; a prefix does not count.

    References:
        Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, section 3.2; grouped queries, arXiv:2305.13245;
        prefixes, arXiv:2101.00190.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        dropout: float = 0.0,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        memory_size: int | None = None,
        causal: bool = False,
        window: Window | None = None,
        use_bias: bool = True,
        rotary: RotaryEmbedding | None = None,
        alibi: bool = False,
    ) -> None:
        super().__init__()
        if num_heads <= 0 or (head_dim is None and hidden_size % num_heads):
            raise InvalidInputError(
                f"hidden_size must be a multiple of num_heads, got hidden_size={hidden_size}, num_heads={num_heads}"
            )
        self.hidden_size = hidden_size
        self.memory_size = hidden_size if memory_size is None else memory_size
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.head_dim = hidden_size // num_heads if head_dim is None else head_dim
        for name in ("memory_size", "num_kv_heads", "head_dim"):
            check_positive(name, getattr(self, name))
        if num_heads % self.num_kv_heads:
            raise InvalidInputError(
                f"num_kv_heads: expected a divisor of num_heads={num_heads}, got {self.num_kv_heads}"
            )
        if rotary is not None and rotary.head_dim != self.head_dim:
            raise InvalidInputError(f"rotary: expected head_dim {self.head_dim}, got {rotary.head_dim}")
        self.dropout = dropout
        self.causal = causal
        self.window = window
        bias = None if use_bias else False
        width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.query = Linear(hidden_size, width, bias_attr=bias)
        self.key = Linear(self.memory_size, kv_width, bias_attr=bias)
        self.value = Linear(self.memory_size, kv_width, bias_attr=bias)
        self.output = Linear(width, hidden_size, bias_attr=bias)
        self.rotary = rotary
        self.register_buffer("alibi_slopes", alibi_slopes(num_heads) if alibi else None, persistable=False)
        self.prefix: nn.Layer | None = None

    def new_cache(self, batch_size: int, capacity: int) -> KeyValueCache:
        """Return an empty cache for ``capacity`` tokens of each sequence, and what a prefix needs."""
        if self.prefix is not None:
            with paddle.no_grad():
                capacity += self.prefix(1)[0].shape[1]
        dtype = dtype_name(self.parameters()[0])
        return KeyValueCache(batch_size, capacity, self.num_kv_heads, self.head_dim, dtype)

    def forward(
        self,
        hidden: Tensor,
        bias: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        kv_lengths: Tensor | None = None,
        cache: KeyValueCache | MemoryCache | None = None,
    ) -> Tensor:
        """Return the attended and projected hidden states.

        Args:
            hidden: see above.
            bias: see above.
            memory: what to attend to instead of ``hidden``.
            kv_lengths: how many tokens of ``memory``, or of ``hidden``, each sequence has (right-padded); with a
                cache, how many of the new ones. In self-attention they are the queries' lengths too.
            cache: a :class:`KeyValueCache` for causal self-attention: the new tokens are written to it and see what
                was there. A :class:`MemoryCache` for cross-attention: its keys and values are computed from ``memory``
                and kept by the first call; later ones look neither at ``memory`` nor at ``kv_lengths``. Only in
                evaluation mode and without gradients.

        Raises:
            InvalidInputError: shapes do not fit, there is no room in the cache, or arguments do not go together.
            InvalidDtypeError: an argument is no tensor, or has an unsuitable dtype or type.
            UnsupportedError: a cache in training mode or with gradients, or a prefix with window or ALiBi.
        """
        if cache is not None:
            self._check_cache(cache)
        check_shape(
            "hidden", hidden, [UNKNOWN, UNKNOWN, self.hidden_size], "[batch_size, seq_len, hidden_size]"
        )
        if memory is None and not isinstance(cache, MemoryCache):
            self._check_self()
            return self._attend_self(hidden, bias, kv_lengths, cache)
        if cache is None or isinstance(cache, MemoryCache):
            self._check_memory(hidden, memory, cache)
            return self._attend_memory(hidden, bias, memory, kv_lengths, cache)
        raise InvalidDtypeError(f"cache: expected a MemoryCache with memory, got {type(cache).__name__}")

    def _check_cache(self, cache: KeyValueCache | MemoryCache) -> None:
        if self.training or (paddle.in_dynamic_mode() and paddle.is_grad_enabled()):
            raise UnsupportedError(
                "cache: expected evaluation mode and no gradients, got training mode or gradients: call eval(), and "
                "this under paddle.no_grad()"
            )
        if isinstance(cache, KeyValueCache) and not self.causal:
            raise InvalidInputError(
                "cache: expected None in attention that is not causal, got a KeyValueCache"
            )

    def _check_self(self) -> None:
        if self.memory_size != self.hidden_size:
            raise InvalidInputError(f"memory: expected a tensor of width {self.memory_size}, got None")
        if self.prefix is not None and (self.window is not None or self.alibi_slopes is not None):
            raise UnsupportedError(
                "prefix: expected None in attention with window or alibi, which would hide or dim it, got a Layer"
            )

    def _check_memory(self, hidden: Tensor, memory: Tensor | None, cache: MemoryCache | None) -> None:
        if self.causal or self.window is not None or self.rotary is not None or self.alibi_slopes is not None:
            raise InvalidInputError(
                "memory: expected None in attention with causal, window, rotary or alibi, which are about one "
                "sequence, got a memory"
            )
        if cache is not None and not cache.is_empty:
            return
        if memory is None:
            raise InvalidInputError("memory: expected a tensor at the first use of a MemoryCache, got None")
        shape = [hidden.shape[0], UNKNOWN, self.memory_size]
        check_shape("memory", memory, shape, "[batch_size, memory_len, memory_size]")

    def _slopes(self) -> Tensor | None:
        # The operators want them in float32, also in a layer that was converted to float64.
        return None if self.alibi_slopes is None else self.alibi_slopes.astype("float32")

    def _split_heads(self, projected: Tensor, num_heads: int) -> Tensor:
        return projected.reshape([0, 0, num_heads, self.head_dim])

    def _keys_and_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        key, value = (self._split_heads(part(source), self.num_kv_heads) for part in (self.key, self.value))
        return key, value

    def _attend_self(
        self,
        hidden: Tensor,
        bias: Tensor | None,
        kv_lengths: Tensor | None,
        cache: KeyValueCache | None,
    ) -> Tensor:
        query = self._split_heads(self.query(hidden), self.num_heads)
        key, value = self._keys_and_values(hidden)
        is_first = cache is None or cache.is_empty
        if self.rotary is not None:
            so_far = None if cache is None or is_first else cache.lengths - cache.prefix_length
            positions = next_positions(hidden, so_far)
            query, key = self.rotary(query, positions), self.rotary(key, positions)
        if cache is not None and not is_first:
            ends = cache.extend(key, value, kv_lengths)
            context = ops.attention_decode(
                query,
                cache.keys,
                cache.values,
                kv_lengths=ends,
                bias=_seen_prefix(bias, cache.prefix_length, size_of(cache.keys, 1) - cache.prefix_length),
                window=self.window,
                alibi_slopes=self._slopes(),
            )
            return self.output(context.flatten(2))
        q_lengths = kv_lengths
        prefix_length, key, value, bias, kv_lengths = self._put_prefix(key, value, bias, kv_lengths)
        if cache is not None:
            cache.extend(key, value, kv_lengths)
            cache.prefix_length = prefix_length
        context = ops.attention(
            query,
            key,
            value,
            causal=self.causal,
            bias=bias,
            kv_lengths=kv_lengths,
            q_lengths=q_lengths,
            window=self.window,
            alibi_slopes=self._slopes(),
            dropout_p=self.dropout,
            training=self.training,
        )
        # Here, where query, key and value still exist: freed before, their memory may go back to the system, and
        # the output projection's pages have to be fetched again.
        return self.output(context.flatten(2))

    def _attend_memory(
        self,
        hidden: Tensor,
        bias: Tensor | None,
        memory: Tensor | None,
        kv_lengths: Tensor | None,
        cache: MemoryCache | None,
    ) -> Tensor:
        query = self._split_heads(self.query(hidden), self.num_heads)
        if cache is not None and not cache.is_empty:
            bias = _seen_prefix(bias, cache.prefix_length, size_of(cache.keys, 1) - cache.prefix_length)
            context = ops.attention_decode(
                query, cache.keys, cache.values, kv_lengths=cache.lengths, causal=False, bias=bias
            )
            return self.output(context.flatten(2))
        key, value = self._keys_and_values(memory)
        prefix_length, key, value, bias, kv_lengths = self._put_prefix(key, value, bias, kv_lengths)
        if cache is not None:
            cache.fill(key, value, kv_lengths, prefix_length=prefix_length)
        context = ops.attention(
            query,
            key,
            value,
            bias=bias,
            kv_lengths=kv_lengths,
            dropout_p=self.dropout,
            training=self.training,
        )
        return self.output(context.flatten(2))

    def _put_prefix(
        self, key: Tensor, value: Tensor, bias: Tensor | None, kv_lengths: Tensor | None
    ) -> tuple[int, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Put the prefix, if there is one, before keys and values; return its length and the arguments with it."""
        if self.prefix is None:
            return 0, key, value, bias, kv_lengths
        prefix_key, prefix_value = self.prefix(size_of(key, 0))
        shape = [key.shape[0], UNKNOWN, self.num_kv_heads, self.head_dim]
        check_shape("prefix, keys", prefix_key, shape, "[batch_size, P, num_kv_heads, head_dim]")
        check_shape("prefix, values", prefix_value, prefix_key.shape, "shape of the keys")
        length = prefix_key.shape[1]
        bias = _seen_prefix(bias, length, size_of(key, 1))
        key, value = paddle.concat([prefix_key, key], axis=1), paddle.concat([prefix_value, value], axis=1)
        return length, key, value, bias, None if kv_lengths is None else kv_lengths + length


def _seen_prefix(bias: Tensor | None, prefix_length: int, keys: int | Tensor) -> Tensor | None:
    """Extend a bias over ``keys`` keys to the left by those of a prefix, which every query sees."""
    if bias is None or not prefix_length:
        return bias
    leading = [UNKNOWN] * (bias.ndim - 1)  # to expand: as they are
    seen = paddle.ones_like(bias[..., :1]) if bias.dtype == paddle.bool else paddle.zeros_like(bias[..., :1])
    if bias.shape[-1] == 1:
        bias = bias.expand([*leading, keys])
    return paddle.concat([seen.expand([*leading, prefix_length]), bias], axis=-1)


# Paddle's graph capture shall call it as it is: it looks at a shape.
unified(_seen_prefix)
