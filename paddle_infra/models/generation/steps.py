"""How a search asks a model for the next tokens' scores."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import paddle
from paddle import Tensor

from paddle_infra.models.generation.scores import LinearScores
from paddle_infra.nn import DecoderCache


class Steps(Protocol):
    """A model in the middle of generating some rows (sequences, or beams of them)."""

    def step(self, tokens: Tensor, lengths: Tensor | None) -> Tensor | LinearScores:
        """Take new tokens and return the scores of those that follow.

        Args:
            tokens: int64 ``[rows, new_tokens]``: at first the prompts, then one token at a time.
            lengths: int64 ``[rows]``: how many of the tokens exist (right-padded prompts). None: all.

        Returns:
            Logits ``[rows, vocab_size]`` after the last token that exists, or :class:`LinearScores`.
        """

    def repeat(self, count: int) -> None:
        """Put ``count`` copies of each row side by side, after the prompt."""

    def reorder(self, index: Tensor) -> None:
        """Let row *i* go on from what was row ``index[i]`` (int64 ``[rows]``), a copy of the same row."""


class TokenDecoder(Protocol):
    """What :class:`DecoderSteps` drives; :class:`paddle_infra.models.TextDecoder` is one."""

    def __call__(
        self,
        input_ids: Tensor,
        *,
        memory: Tensor | None = None,
        memory_lengths: Tensor | None = None,
        lengths: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Return the hidden states ``[rows, new_tokens, hidden_size]``."""

    def new_cache(self, batch_size: int, capacity: int) -> DecoderCache:
        """Return an empty cache."""

    def scores(self, hidden: Tensor) -> LinearScores:
        """Return the next tokens' scores after the states ``[rows, hidden_size]``."""


class DecoderSteps:
    """Steps of a Transformer decoder, of an encoder-decoder or a language model, with a cache.

    Args:
        decoder: the model.
        batch_size: number of prompts.
        capacity: most tokens of a sequence, padding of the prompts included.
        memory: ``[batch_size, memory_len, memory_size]``, what the decoder attends to, or None. Its keys and values
            are computed in the first step.
        memory_lengths: int ``[batch_size]``: how many states of the memory exist; None: all.
    """

    def __init__(
        self,
        decoder: TokenDecoder,
        batch_size: int,
        capacity: int,
        memory: Tensor | None = None,
        memory_lengths: Tensor | None = None,
    ) -> None:
        self._decoder = decoder
        self._memory, self._memory_lengths = memory, memory_lengths
        self._cache = decoder.new_cache(batch_size, capacity)

    def step(self, tokens: Tensor, lengths: Tensor | None) -> LinearScores:
        """Do as :meth:`Steps.step`."""
        hidden = self._decoder(
            tokens,
            memory=self._memory,
            memory_lengths=self._memory_lengths,
            lengths=lengths,
            cache=self._cache,
        )
        self._memory = self._memory_lengths = None  # the cache has what is needed of them
        return self._decoder.scores(last_states(hidden, lengths))

    def repeat(self, count: int) -> None:
        """Do as :meth:`Steps.repeat`."""
        self._cache.reorder(_copies(self._cache.lengths.shape[0], count))

    def reorder(self, index: Tensor) -> None:
        """Do as :meth:`Steps.reorder`. Copies of a row have the same memory: it stays where it is."""
        for layer in self._cache.layers:
            layer.attention.reorder(index)


class UncachedSteps:
    """Steps that compute everything anew: slow, to compare with. Arguments as of :class:`DecoderSteps`."""

    def __init__(
        self,
        decoder: TokenDecoder,
        memory: Tensor | None = None,
        memory_lengths: Tensor | None = None,
    ) -> None:
        self._decoder = decoder
        self._memory, self._memory_lengths = memory, memory_lengths
        self._rows: list[np.ndarray] = []

    def step(self, tokens: Tensor, lengths: Tensor | None) -> LinearScores:
        """Do as :meth:`Steps.step`."""
        new = tokens.numpy()
        if lengths is not None:
            new = [row[:length] for row, length in zip(new, lengths.numpy(), strict=True)]
        old = self._rows or [np.empty(0, np.int64)] * len(new)
        self._rows = [np.concatenate(pair) for pair in zip(old, new, strict=True)]
        counts = np.array([len(row) for row in self._rows])
        ids = np.zeros((len(counts), counts.max()), np.int64)
        for place, row in zip(ids, self._rows, strict=True):
            place[: len(row)] = row
        all_lengths = paddle.to_tensor(counts)
        hidden = self._decoder(
            paddle.to_tensor(ids),
            memory=self._memory,
            memory_lengths=self._memory_lengths,
            lengths=all_lengths,
        )
        return self._decoder.scores(last_states(hidden, all_lengths))

    def repeat(self, count: int) -> None:
        """Do as :meth:`Steps.repeat`."""
        index = _copies(len(self._rows), count)
        self.reorder(index)
        if self._memory is not None:
            self._memory = paddle.index_select(self._memory, index)
        if self._memory_lengths is not None:
            self._memory_lengths = paddle.index_select(self._memory_lengths, index)

    def reorder(self, index: Tensor) -> None:
        """Do as :meth:`Steps.reorder`."""
        self._rows = [self._rows[row] for row in index.numpy()]


def last_states(hidden: Tensor, lengths: Tensor | None) -> Tensor:
    """Return each row's state of its last token that exists: ``[rows, new_tokens, D]`` to ``[rows, D]``."""
    if lengths is None:
        return hidden[:, -1]
    place = paddle.stack([paddle.arange(len(hidden), dtype="int64"), lengths.astype("int64") - 1], axis=1)
    return paddle.gather_nd(hidden, place)


def _copies(rows: int, count: int) -> Tensor:
    return paddle.to_tensor(np.repeat(np.arange(rows), count))
