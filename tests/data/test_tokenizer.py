"""The tokenizer, checked against an independent word-piece implementation on real text."""

from __future__ import annotations

import json
import shutil
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paddle_infra._core.errors import DataError, InvalidInputError
from paddle_infra.data import Tokenizer, read_conll, read_question_labels


@pytest.fixture(scope="module")
def tokenizer(minilm_dir: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(minilm_dir)


def word_pieces(word: str, vocab: dict[str, int]) -> list[int]:
    """Greedy longest match first, as the BERT paper's code does it."""
    pieces, start = [], 0
    while start < len(word):
        for stop in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:stop]
            if piece in vocab:
                pieces.append(vocab[piece])
                start = stop
                break
        else:
            return [vocab["[UNK]"]]
    return pieces


def bert_words(text: str) -> list[str]:
    """Lower case, without accents, split at white space and around every punctuation mark."""
    text = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    spaced = "".join(f" {c} " if unicodedata.category(c)[0] == "P" or c in "$+<=>^`|~" else c for c in text)
    return spaced.split()


def test_real_questions_give_the_word_pieces_of_the_definition(
    tokenizer: Tokenizer, minilm_dir: Path, trec_file: Path
) -> None:
    vocab = {w: i for i, w in enumerate((minilm_dir / "vocab.txt").read_text("utf-8").split("\n"))}
    questions = [e.text for e in read_question_labels(trec_file)[:3000] if e.text.isascii()]
    assert len(questions) > 2900
    for question in questions:
        pieces = [piece for word in bert_words(question) for piece in word_pieces(word, vocab)]
        assert tokenizer.encode(question).input_ids == [101, *pieces, 102]


def test_settings_and_special_tokens(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (0, 30_522)
    encoding = tokenizer.encode("Café")
    assert tokenizer.encode("CAFE") == encoding
    assert len(encoding.input_ids) == 3
    assert (encoding.token_type_ids, encoding.word_ids, encoding.dropped) == ([0, 0, 0], [None, 0, None], 0)
    assert tokenizer.encode("").input_ids == [101, 102]
    assert tokenizer.decode(tokenizer.encode("What is unbelievable ?").input_ids) == "what is unbelievable?"


def test_padding_and_truncation_stored_in_the_file_are_ignored(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("a " * 300).input_ids) == 302  # the file says 128, padded


def test_truncation_keeps_the_special_tokens_and_counts(tokenizer: Tokenizer) -> None:
    full = tokenizer.encode("one two three four five")
    for length in range(3, 10):
        cut = tokenizer.encode("one two three four five", length)
        assert cut.input_ids == [*full.input_ids[: min(length, 7) - 1], 102]
        assert len(cut.token_type_ids) == len(cut.word_ids) == len(cut.input_ids)
        assert cut.dropped == max(0, 7 - length)
    with pytest.raises(
        InvalidInputError, match=r"max_length of at least 3 \(2 special tokens and one sub-word\), got 2"
    ):
        tokenizer.encode("one", 2)


def test_words_keep_their_index(tokenizer: Tokenizer) -> None:
    encoding = tokenizer.encode_words(["EU", "unbelievably", "U.S."])
    assert encoding.word_ids == [None, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, None]
    assert tokenizer.encode_words(["EU", "unbelievably"], 5).word_ids == [None, 0, 1, 1, None]


def test_a_word_without_sub_words_becomes_one_unknown_token(tokenizer: Tokenizer) -> None:
    encoding = tokenizer.encode_words(["a", "\u200b", "\x00", "", "b"])
    assert encoding.word_ids == [None, 0, 1, 2, 3, 4, None]
    assert encoding.input_ids[2:5] == [100, 100, 100]


def test_every_word_of_conll_has_its_sub_words(tokenizer: Tokenizer, conll_dir: Path) -> None:
    for example in read_conll(conll_dir / "test.txt")[:800]:
        encoding = tokenizer.encode_words(example.tokens)
        words = [w for w in encoding.word_ids if w is not None]
        assert sorted(set(words)) == list(range(len(example.tokens)))
        assert words == sorted(words)
        for index, token in enumerate(example.tokens):
            alone = tokenizer.encode_words([token]).input_ids[1:-1]
            assert [
                i for i, w in zip(encoding.input_ids, encoding.word_ids, strict=True) if w == index
            ] == alone


def test_lone_surrogates_are_replaced(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")
    assert tokenizer.encode_words(["\ud800"]).word_ids == [None, 0, None]
    assert tokenizer.encode("\U0001f600") == tokenizer.encode("\ud83d\ude00")  # a pair is one character


def test_what_is_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a text \(str\), got NoneType"):
        tokenizer.encode(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"expected a sequence of words \(str\), got 'EU'"):
        tokenizer.encode_words("EU")
    with pytest.raises(InvalidInputError, match=r"expected a sequence of words \(str\), got \['a', 1\]"):
        tokenizer.encode_words(["a", 1])  # type: ignore[list-item]


def test_threads_with_different_lengths_do_not_disturb_each_other(tokenizer: Tokenizer) -> None:
    text = "one two three four five six seven eight"
    expected = {length: tokenizer.encode(text, length) for length in range(3, 11)}
    with ThreadPoolExecutor(8) as pool:
        jobs = [(length, pool.submit(tokenizer.encode, text, length)) for length in list(expected) * 200]
    assert all(job.result() == expected[length] for length, job in jobs)


def test_saved_and_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "model")
    names = ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == names
    again = Tokenizer.from_pretrained(tmp_path / "model")
    assert again.pad_id == tokenizer.pad_id
    for text in ("What is AT&T ?", "naïve 中文 \U0001f600", "a " * 200):
        assert again.encode(text, 64) == tokenizer.encode(text, 64)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a")
    with pytest.raises(DataError, match=r"expected the file tokenizer.json, found \['vocab.txt'\]"):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"expected the file tokenizer.json, found no such folder"):
        Tokenizer.from_pretrained(tmp_path / "absent")


@pytest.mark.parametrize("damage", ["truncated", "other", "empty", "binary"])
def test_a_damaged_tokenizer_file(minilm_dir: Path, tmp_path: Path, damage: str) -> None:
    content = (minilm_dir / "tokenizer.json").read_bytes()
    broken = {"truncated": content[:1000], "other": b'{"model": 3}', "empty": b"", "binary": b"\xff\xfe\x00"}
    (tmp_path / "tokenizer.json").write_bytes(broken[damage])
    with pytest.raises(
        DataError, match=r"tokenizer\.json: expected a tokenizer file, it is damaged or of another kind"
    ):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"), [("{", "in JSON, got"), ("[1]", "expected a JSON object, got list")]
)
def test_damaged_settings(minilm_dir: Path, tmp_path: Path, content: str, reason: str) -> None:
    shutil.copy(minilm_dir / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(DataError, match=rf"tokenizer_config\.json: .*{reason}"):
        Tokenizer.from_pretrained(tmp_path)


def test_the_padding_token_is_found(minilm_dir: Path, tmp_path: Path) -> None:
    content = json.loads((minilm_dir / "tokenizer.json").read_text("utf-8"))
    shutil.copy(minilm_dir / "tokenizer.json", tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).pad_id == 0  # by its usual name
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": {"content": "[MASK]"}}')
    assert Tokenizer.from_pretrained(tmp_path).pad_id == 103  # as the settings say
    (tmp_path / "tokenizer_config.json").unlink()
    words = {"[UNK]": 0, "a": 1}
    content = {**content, "added_tokens": [], "padding": None, "truncation": None, "post_processor": None}
    content["model"] = {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    bare = Tokenizer.from_pretrained(tmp_path)
    assert bare.encode("a b").input_ids == [1, 0]
    with pytest.raises(InvalidInputError, match=r"expected a padding token \(\[PAD\], .*found none"):
        _ = bare.pad_id
