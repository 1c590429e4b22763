"""Samples, and the alignment of sub-words with labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paddle_infra._core.errors import DataError, InvalidInputError
from paddle_infra.data import (
    IGNORED_LABEL,
    LabelMap,
    SequenceClassificationDataset,
    TextExample,
    TokenClassificationDataset,
    TokenExample,
    Tokenizer,
    first_subwords,
    read_conll,
)

LABELS = LabelMap(["x", "y"])
TAGS = LabelMap(["O", "B-ORG", "B-LOC"])


@pytest.fixture(scope="module")
def tokenizer(minilm_dir: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(minilm_dir)


def test_texts(tokenizer: Tokenizer) -> None:
    examples = [TextExample("one two", "y", 4), TextExample("three", "x", 5), TextExample("a " * 50, "x", 6)]
    counted: list[int] = []
    dataset = SequenceClassificationDataset(
        examples, tokenizer, LABELS, max_length=10, progress=counted.append
    )
    assert len(dataset) == 3
    assert dataset[0] == {
        "input_ids": tokenizer.encode("one two").input_ids,
        "token_type_ids": [0] * 4,
        "labels": 1,
    }
    assert dataset[1]["labels"] == 0
    assert dataset.lengths.tolist() == [4, 3, 10]
    assert dataset.truncated_count == 1
    assert counted == [1, 2, 3]
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"expected a sample index from 0 to 2, got {index}"):
            dataset[index]


def test_sentences(tokenizer: Tokenizer) -> None:
    examples = [
        TokenExample(("EU", "unbelievably", "U.S."), ("B-ORG", "O", "B-LOC"), 1),
        TokenExample(("a", "\u200b"), ("O", "B-LOC"), 5),
    ]
    dataset = TokenClassificationDataset(examples, tokenizer, TAGS, max_length=32)
    none = IGNORED_LABEL
    assert dataset[0]["labels"] == [none, 1, 0, none, none, none, none, 2, none, none, none, none]
    assert dataset[1]["labels"] == [none, 0, 2, none]
    assert dataset.lengths.tolist() == [12, 4]
    assert (dataset.truncated_count, dataset.lost_word_count) == (0, 0)


def test_words_that_are_cut_off_are_counted(tokenizer: Tokenizer) -> None:
    example = TokenExample(("EU", "unbelievably", "U.S.", "x"), ("B-ORG", "O", "B-LOC", "O"), 1)
    dataset = TokenClassificationDataset([example, example], tokenizer, TAGS, max_length=6)
    assert dataset[0]["labels"] == [IGNORED_LABEL, 1, 0, IGNORED_LABEL, IGNORED_LABEL, IGNORED_LABEL]
    assert (dataset.truncated_count, dataset.lost_word_count) == (2, 4)


def test_unlabelled_examples_give_samples_without_labels(tokenizer: Tokenizer) -> None:
    texts = SequenceClassificationDataset([TextExample("a", None, 1)], tokenizer, None, max_length=8)
    assert sorted(texts[0]) == ["input_ids", "token_type_ids"]
    words = TokenClassificationDataset([TokenExample(("a",), None, 1)], tokenizer, TAGS, max_length=8)
    assert sorted(words[0]) == ["input_ids", "token_type_ids"]


def test_wrong_labels_name_the_line(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"line 7: expected a label among \['x', 'y'\], got 'z'"):
        SequenceClassificationDataset([TextExample("a", "z", 7)], tokenizer, LABELS, max_length=8)
    mixed = [TextExample("a", "x", 1), TextExample("b", None, 2)]
    with pytest.raises(DataError, match="line 2: expected a label as other examples have one, found none"):
        SequenceClassificationDataset(mixed, tokenizer, LABELS, max_length=8)
    with pytest.raises(InvalidInputError, match="expected a LabelMap for labelled examples, got None"):
        SequenceClassificationDataset([TextExample("a", "x", 1)], tokenizer, None, max_length=8)
    with pytest.raises(InvalidInputError, match="expected at least one example, got none"):
        SequenceClassificationDataset([], tokenizer, LABELS, max_length=8)
    cut_off = TokenExample(("a", "b", "c"), ("O", "O", "B-PER"), 3)
    with pytest.raises(
        DataError, match=r"line 3: expected a label among \['O', 'B-ORG', 'B-LOC'\], got 'B-PER'"
    ):
        TokenClassificationDataset([cut_off], tokenizer, TAGS, max_length=3)
    with pytest.raises(DataError, match="line 4: expected one label per word, got 1 labels for 2 words"):
        TokenClassificationDataset([TokenExample(("a", "b"), ("O",), 4)], tokenizer, TAGS, max_length=8)


def test_labels_of_real_sentences_come_back(tokenizer: Tokenizer, conll_dir: Path) -> None:
    examples = read_conll(conll_dir / "test.txt")[:1000]
    labels = LabelMap.from_examples(examples)
    dataset = TokenClassificationDataset(examples, tokenizer, labels, max_length=256)
    assert dataset.truncated_count == dataset.lost_word_count == 0
    for index, example in enumerate(examples):
        sample = dataset[index]
        assert isinstance(sample["labels"], list)
        back = [labels.name_of(n) for n in sample["labels"] if n != IGNORED_LABEL]
        assert tuple(back) == example.labels
        starts = first_subwords(tokenizer.encode_words(example.tokens).word_ids)
        assert starts == np.flatnonzero(np.array(sample["labels"]) != IGNORED_LABEL).tolist()
        assert len(sample["labels"]) == len(sample["input_ids"]) == dataset.lengths[index]  # type: ignore[arg-type]


def test_first_subwords() -> None:
    assert first_subwords([None, 0, 0, 1, 2, 2, None]) == [1, 3, 4]
    assert first_subwords([0, 1]) == [0, 1]
    assert first_subwords([None, None]) == []
