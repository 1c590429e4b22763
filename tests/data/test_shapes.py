from __future__ import annotations

import pytest

from paddle_infra.data import (
    WORD_SHAPES,
    LabelMap,
    SequenceClassificationDataset,
    TextExample,
    TokenClassificationDataset,
    TokenExample,
    Tokenizer,
    word_shape,
)


@pytest.mark.parametrize(
    ("word", "shape"),
    [
        ("paris", "lower"),
        ("Paris", "title"),
        ("US", "upper"),
        ("U.S.", "upper"),
        ("AT&T", "upper"),
        ("I", "single_upper"),
        ("U.", "single_upper"),
        ("iPhone", "mixed"),
        ("McDonald", "mixed"),
        ("Jean-Pierre", "mixed"),
        ("1996-08-22", "digit"),
        ("B2B", "digit"),
        (",", "lower"),
        ("北京", "lower"),
        ("Élan", "title"),
        ("'Tis", "title"),
        ("", "lower"),
    ],
)
def test_shapes(word: str, shape: str) -> None:
    assert WORD_SHAPES[word_shape(word)] == shape


def test_every_sub_word_has_its_word_s_shape(minilm_dir: object) -> None:
    tokenizer = Tokenizer.from_pretrained(minilm_dir)
    example = TokenExample(("Serfdom", "in", "NATO", "42"), ("O", "O", "O", "O"), 1)
    dataset = TokenClassificationDataset(
        [example], tokenizer, LabelMap(["O"]), max_length=32, word_type=word_shape
    )
    word_ids = tokenizer.encode_words(example.tokens, 32).word_ids
    names = [WORD_SHAPES[number] for number in dataset[0]["token_type_ids"]]
    wanted = {None: "lower", 0: "title", 1: "lower", 2: "upper", 3: "digit"}
    assert names == [wanted[word] for word in word_ids]
    assert len(word_ids) > 6, "a word has several sub-words here"


def test_texts_have_shapes_too(minilm_dir: object) -> None:
    tokenizer = Tokenizer.from_pretrained(minilm_dir)
    text = "What's NATO ,  really ?"
    example = TextExample(text, "a", 1)
    plain, shaped = (
        SequenceClassificationDataset(
            [example], tokenizer, LabelMap(["a", "b"]), max_length=32, word_type=kind
        )[0]
        for kind in (None, word_shape)
    )
    assert shaped["input_ids"] == plain["input_ids"]
    assert set(plain["token_type_ids"]) == {0}
    # [CLS] what ' s nato , really ? [SEP]: a word is what white space separates.
    assert [WORD_SHAPES[number] for number in shaped["token_type_ids"]] == (
        ["lower", "title", "title", "title", "upper", "lower", "lower", "lower", "lower"]
    )
