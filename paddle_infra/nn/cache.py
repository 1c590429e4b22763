"""What attention keeps from step to step of generating a sequence: keys and values of tokens and of a memory."""

from __future__ import annotations

from dataclasses import dataclass

import paddle
from paddle import Tensor

from paddle_infra._core.checks import (
    UNKNOWN,
    check_lengths,
    check_positive,
    check_shape,
    check_tensor,
    dtype_name,
)
from paddle_infra._core.errors import InvalidInputError

_FLOATS = ("float32", "float64", "float16", "bfloat16")
_INTEGERS = ("int32", "int64")
_MEANING = "[batch_size, seq_len, num_kv_heads, head_dim]"


class KeyValueCache:
    """Keys and values of the tokens so far, of one self-attention layer, in memory that is reserved once.

    Row *b* holds ``lengths[b]`` tokens, from place 0 on without gaps, so that prompts of different lengths go on side
    by side. A step writes into the reserved memory and copies nothing else. Inside a program (``to_static``) the
    arrays are copied at each step, since a program cannot change what it is given.

    Args:
        batch_size: number of sequences.
        capacity: most tokens that a sequence can have.
        num_kv_heads: heads of keys and values.
        head_dim: width of a head.
        dtype: of keys and values.

    Attributes:
        keys: ``[batch_size, capacity, num_kv_heads, head_dim]``; places from ``lengths`` on hold anything finite.
        values: as ``keys``.
        lengths: int32 ``[batch_size]``, tokens of each sequence, those of a prefix included.
        prefix_length: how many of them are an attention layer's ``prefix``; they do not count as positions.
    """

    def __init__(
        self, batch_size: int, capacity: int, num_kv_heads: int, head_dim: int, dtype: str = "float32"
    ) -> None:
        sizes = {
            "batch_size": batch_size,
            "capacity": capacity,
            "num_kv_heads": num_kv_heads,
            "head_dim": head_dim,
        }
        for name, size in sizes.items():
            check_positive(name, size)
        shape = [batch_size, capacity, num_kv_heads, head_dim]
        self.keys = paddle.zeros(shape, dtype)
        self.values = paddle.zeros(shape, dtype)
        self.lengths = paddle.zeros([batch_size], "int32")
        self.prefix_length = 0
        # The largest of the lengths; None inside a program, which does not know it.
        self._most: int | None = 0

    @classmethod
    def of(cls, keys: Tensor, values: Tensor, lengths: Tensor, *, prefix_length: int = 0) -> KeyValueCache:
        """Go on with arrays of an earlier cache: what a program of one step takes in and gives back.

        Args:
            keys: ``[batch_size, capacity, num_kv_heads, head_dim]``; outside of programs it is written to.
            values: as ``keys``.
            lengths: int32 or int64 ``[batch_size]``.
            prefix_length: see above.

        Raises:
            InvalidInputError: shapes do not fit, or a length is out of range.
            InvalidDtypeError: an argument is no tensor, or has an unsuitable dtype.
        """
        check_tensor("keys", keys, _FLOATS)
        check_shape("keys", keys, [UNKNOWN] * 4, "[batch_size, capacity, num_kv_heads, head_dim]")
        check_tensor("values", values, _FLOATS)
        check_shape("values", values, keys.shape, "shape of keys")
        check_tensor("lengths", lengths, _INTEGERS)
        check_shape("lengths", lengths, keys.shape[:1], "[batch_size]")
        check_lengths("lengths", lengths, keys.shape[1])
        cache = cls.__new__(cls)
        cache.keys, cache.values, cache.lengths = keys, values, lengths.astype("int32")
        cache.prefix_length = prefix_length
        cache._most = cache._longest() if paddle.in_dynamic_mode() else None
        return cache

    @property
    def capacity(self) -> int:
        """Most tokens that a sequence can have."""
        return self.keys.shape[1]

    @property
    def is_empty(self) -> bool:
        """Whether no sequence has a token. A program given a cache takes it for one that has."""
        return self._most == 0

    def extend(self, key: Tensor, value: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Write the keys and values of new tokens behind those that are there.

        Args:
            key: ``[batch_size, new_tokens, num_kv_heads, head_dim]``.
            value: as ``key``.
            lengths: int32 or int64 ``[batch_size]``: how many of the new tokens exist (right-padded prompts). None:
                all.

        Returns:
            int32 ``[batch_size]``: the old lengths and all new tokens, padding included. Seen from there, the new
            tokens' queries are the last ones: this is ``kv_lengths`` of :func:`paddle_infra.ops.attention_decode`.

        Raises:
            InvalidInputError: shapes do not fit, or there is no room. Nothing was written.
            InvalidDtypeError: an argument is no tensor, or has an unsuitable dtype.
        """
        new = self._check_new(key, value, lengths)
        if lengths is not None:
            lengths = lengths.astype("int32")
            key, value = (_zero_padding(x, lengths) for x in (key, value))
        if self.is_empty and paddle.in_dynamic_mode():
            self.keys[:, :new] = key
            self.values[:, :new] = value
        else:
            self._write(key, value)
        ends = self.lengths + paddle.shape(key)[1].astype("int32")
        self.lengths = ends if lengths is None else self.lengths + lengths
        if self._most is not None:
            self._most = self._most + new if lengths is None else self._longest()
        return ends

    def reorder(self, index: Tensor) -> None:
        """Let sequence *i* go on from what was sequence ``index[i]``: beams that were kept, or copies of a prompt.

        Args:
            index: int32 or int64 ``[new_batch_size]``, numbers of sequences; some may be missing or repeated.
        """
        _check_index(index)
        self.keys, self.values, self.lengths = (
            paddle.index_select(x, index, axis=0) for x in (self.keys, self.values, self.lengths)
        )
        self._most = self._longest() if paddle.in_dynamic_mode() else None

    def _check_new(self, key: Tensor, value: Tensor, lengths: Tensor | None) -> int:
        batch, capacity, heads, head_dim = self.keys.shape
        dtype = dtype_name(self.keys)
        check_tensor("key", key, (dtype,))
        check_shape("key", key, [batch, UNKNOWN, heads, head_dim], _MEANING + " of the cache")
        check_tensor("value", value, (dtype,))
        check_shape("value", value, key.shape, "shape of key")
        if lengths is not None:
            check_tensor("lengths", lengths, _INTEGERS)
            check_shape("lengths", lengths, [batch], "[batch_size]")
            check_lengths("lengths", lengths, key.shape[1])
        new = key.shape[1]
        if self._most is not None and self._most + new > capacity:
            raise InvalidInputError(
                f"cache: expected at most {capacity - self._most} new tokens, because the longest sequence has "
                f"{self._most} of {capacity}, got {new}"
            )
        return new

    def _write(self, key: Tensor, value: Tensor) -> None:
        row = paddle.arange(paddle.shape(key)[0], dtype="int64").unsqueeze(-1)
        place = self.lengths.astype("int64").unsqueeze(-1) + paddle.arange(
            paddle.shape(key)[1], dtype="int64"
        )
        index = (row.expand_as(place), place)
        put = paddle.index_put_ if paddle.in_dynamic_mode() else paddle.index_put
        self.keys, self.values = put(self.keys, index, key), put(self.values, index, value)

    def _longest(self) -> int:
        return int(self.lengths.numpy().max())


class MemoryCache:
    """Keys and values of the memory of one cross-attention layer, computed at its first use.

    Attributes:
        keys: ``[batch_size, memory_len, num_kv_heads, head_dim]``, or None before the first use.
        values: as ``keys``.
        lengths: int32 ``[batch_size]``, how many of them exist, or None for all.
        prefix_length: how many of them are an attention layer's ``prefix``.
    """

    def __init__(self) -> None:
        self.prefix_length = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.lengths: Tensor | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there yet."""
        return self.keys is None

    def fill(
        self, keys: Tensor, values: Tensor, lengths: Tensor | None = None, *, prefix_length: int = 0
    ) -> None:
        """Keep these."""
        self.keys, self.values = keys, values
        self.lengths = None if lengths is None else lengths.astype("int32")
        self.prefix_length = prefix_length

    def reorder(self, index: Tensor) -> None:
        """Do as :meth:`KeyValueCache.reorder`; an empty one stays as it is."""
        _check_index(index)
        if self.keys is None:
            return
        self.keys, self.values = (paddle.index_select(x, index, axis=0) for x in (self.keys, self.values))
        if self.lengths is not None:
            self.lengths = paddle.index_select(self.lengths, index, axis=0)


@dataclass(frozen=True)
class DecoderLayerCache:
    """What one decoder layer keeps: ``attention``, and ``memory`` if it has cross-attention."""

    attention: KeyValueCache
    memory: MemoryCache | None = None

    def reorder(self, index: Tensor) -> None:
        """Do as :meth:`KeyValueCache.reorder`."""
        self.attention.reorder(index)
        if self.memory is not None:
            self.memory.reorder(index)


@dataclass(frozen=True)
class DecoderCache:
    """What a decoder keeps, layer by layer."""

    layers: tuple[DecoderLayerCache, ...]

    @property
    def lengths(self) -> Tensor:
        """Positions of the next tokens: int32 ``[batch_size]``, tokens so far without those of a prefix."""
        first = self.layers[0].attention
        return first.lengths - first.prefix_length

    def reorder(self, index: Tensor) -> None:
        """Do as :meth:`KeyValueCache.reorder` in every layer."""
        for layer in self.layers:
            layer.reorder(index)


def _check_index(index: Tensor) -> None:
    check_tensor("index", index, _INTEGERS)
    check_shape("index", index, [UNKNOWN], "[new_batch_size]")


def _zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Make padding 0: what is never seen may hold anything, but a hidden NaN times 0 is NaN."""
    exists = paddle.arange(paddle.shape(x)[1], dtype="int32") < lengths.unsqueeze(-1)
    return paddle.where(exists.unsqueeze([2, 3]), x, paddle.zeros([], x.dtype))
