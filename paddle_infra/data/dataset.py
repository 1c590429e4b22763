"""Examples tokenized once and kept in memory as samples for a collator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from paddle_infra._core.errors import DataError, InvalidInputError
from paddle_infra.data.examples import TextExample, TokenExample
from paddle_infra.data.labels import LabelMap
from paddle_infra.data.tokenizer import Encoding, Tokenizer

Sample = dict[str, list[int] | int]

IGNORED_LABEL = -100
"""Label of positions that count neither in the loss nor in a metric."""


class _Encoded:
    """Encoded texts in flat int32 arrays: a list of Python integers takes about ten times the memory."""

    def __init__(self, encodings: list[Encoding]) -> None:
        lengths = np.array([len(e.input_ids) for e in encodings], dtype=np.int64)
        self.lengths: npt.NDArray[np.int64] = lengths
        self._ends = np.concatenate([[0], np.cumsum(lengths)])
        self._ids = np.array([i for e in encodings for i in e.input_ids], dtype=np.int32)
        self._types = np.array([i for e in encodings for i in e.token_type_ids], dtype=np.int32)
        self.truncated_count = sum(e.dropped > 0 for e in encodings)

    def slice_of(self, index: int) -> slice:
        if not 0 <= index < len(self.lengths):
            raise IndexError(f"expected a sample index from 0 to {len(self.lengths) - 1}, got {index}")
        return slice(int(self._ends[index]), int(self._ends[index + 1]))

    def sample(self, index: int) -> Sample:
        part = self.slice_of(index)
        return {"input_ids": self._ids[part].tolist(), "token_type_ids": self._types[part].tolist()}


class SequenceClassificationDataset:
    """One label per text: ``{"input_ids": list[int], "token_type_ids": list[int], "labels": int}``.

    Samples have no ``labels`` if the examples have none.

    Args:
        examples: the texts.
        tokenizer: turns them into sub-words, here and now.
        labels: the classes; may be ``None`` for unlabelled examples.
        max_length: longest sample, in sub-words; longer ones are cut off and counted.
        word_type: returns the token type of a word (what white space separates), which all its sub-words get; see
            :func:`paddle_infra.data.word_shape`. By default the tokenizer's types.
        progress: called with the number of examples encoded so far.

    Raises:
        InvalidInputError: no examples, or labelled examples without ``labels``.
        DataError: a label is not in ``labels``, or only some examples have one; names the line.
    """

    def __init__(
        self,
        examples: Sequence[TextExample],
        tokenizer: Tokenizer,
        labels: LabelMap | None,
        *,
        max_length: int,
        word_type: Callable[[str], int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.examples = list(examples)
        is_labelled = _is_labelled([e.label is not None for e in self.examples], self.examples, labels)
        self._labels = [_label_id(labels, e.label, e.line) for e in self.examples] if is_labelled else None
        encodings = []
        for example in self.examples:
            if word_type is None:
                encodings.append(tokenizer.encode(example.text, max_length))
            else:
                words = example.text.split()
                encodings.append(_with_types(tokenizer.encode_words(words, max_length), words, word_type))
            if progress is not None:
                progress(len(encodings))
        self._encoded = _Encoded(encodings)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Length of every sample in sub-words, int64 [N]."""
        return self._encoded.lengths

    @property
    def truncated_count(self) -> int:
        """How many texts ``max_length`` cut off."""
        return self._encoded.truncated_count

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        sample = self._encoded.sample(index)
        if self._labels is not None:
            sample["labels"] = self._labels[index]
        return sample


class TokenClassificationDataset:
    """One label per word: ``{"input_ids": list[int], "token_type_ids": list[int], "labels": list[int]}``.

    A word's label stands at its first sub-word, :data:`IGNORED_LABEL` (-100) everywhere else. Samples have no
    ``labels`` if the examples have none.

    Args:
        examples: the sentences.
        tokenizer: turns them into sub-words, here and now.
        labels: the classes; may be ``None`` for unlabelled examples.
        max_length: longest sample, in sub-words; longer ones are cut off and counted.
        word_type: returns the token type of a word, which all its sub-words get; see
            :func:`paddle_infra.data.word_shape`. By default the tokenizer's types.
        progress: called with the number of examples encoded so far.

    Raises:
        InvalidInputError: no examples, or labelled examples without ``labels``.
        DataError: a label is not in ``labels``, or only some examples have labels, or a sentence has not one
            per word; names the line.
    """

    def __init__(
        self,
        examples: Sequence[TokenExample],
        tokenizer: Tokenizer,
        labels: LabelMap | None,
        *,
        max_length: int,
        word_type: Callable[[str], int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.examples = list(examples)
        is_labelled = _is_labelled([e.labels is not None for e in self.examples], self.examples, labels)
        encodings: list[Encoding] = []
        aligned: list[int] = []
        self._kept_words: list[int] = []
        for example in self.examples:
            encoding = tokenizer.encode_words(example.tokens, max_length)
            starts = first_subwords(encoding.word_ids)
            self._kept_words.append(len(starts))
            if is_labelled:
                aligned += _align(example, starts, len(encoding.input_ids), labels)
            if word_type is not None:
                encoding = _with_types(encoding, example.tokens, word_type)
            encodings.append(encoding)
            if progress is not None:
                progress(len(encodings))
        self._encoded = _Encoded(encodings)
        self._labels = np.array(aligned, dtype=np.int32) if is_labelled else None

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Length of every sample in sub-words, int64 [N]."""
        return self._encoded.lengths

    @property
    def truncated_count(self) -> int:
        """How many sentences ``max_length`` cut off."""
        return self._encoded.truncated_count

    @property
    def lost_word_count(self) -> int:
        """How many words, over all sentences, were cut off and so are in no loss and no metric."""
        return sum(len(e.tokens) for e in self.examples) - sum(self._kept_words)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        sample = self._encoded.sample(index)
        if self._labels is not None:
            sample["labels"] = self._labels[self._encoded.slice_of(index)].tolist()
        return sample


def first_subwords(word_ids: Sequence[int | None]) -> list[int]:
    """Return the positions at which a word begins, in order: one per word that was not cut off."""
    return [
        position
        for position, word in enumerate(word_ids)
        if word is not None and (position == 0 or word_ids[position - 1] != word)
    ]


def _with_types(encoding: Encoding, words: Sequence[str], word_type: Callable[[str], int]) -> Encoding:
    """Return the encoding with a token type per word; special tokens keep type 0."""
    types = [word_type(word) for word in words]
    return replace(
        encoding, token_type_ids=[0 if word is None else types[word] for word in encoding.word_ids]
    )


def _align(example: TokenExample, starts: list[int], length: int, labels: LabelMap | None) -> list[int]:
    assert example.labels is not None
    if len(example.labels) != len(example.tokens):
        raise DataError(
            f"line {example.line}: expected one label per word, got {len(example.labels)} labels for "
            f"{len(example.tokens)} words"
        )
    # Also labels of words that were cut off: an unknown one must not depend on max_length to be found.
    numbers = [_label_id(labels, name, example.line) for name in example.labels]
    aligned = [IGNORED_LABEL] * length
    for position, number in zip(starts, numbers, strict=False):  # words that were cut off have no start
        aligned[position] = number
    return aligned


def _is_labelled(
    has_label: list[bool], examples: Sequence[TextExample | TokenExample], labels: LabelMap | None
) -> bool:
    if not examples:
        raise InvalidInputError("expected at least one example, got none")
    if not any(has_label):
        return False
    if not all(has_label):
        line = examples[has_label.index(False)].line
        raise DataError(f"line {line}: expected a label as other examples have one, found none")
    if labels is None:
        raise InvalidInputError("expected a LabelMap for labelled examples, got None")
    return True


def _label_id(labels: LabelMap | None, name: str | None, line: int) -> int:
    assert labels is not None
    if name is None or name not in labels:
        raise DataError(f"line {line}: expected a label among {labels.to_list()}, got {name!r}")
    return labels.id_of(name)
