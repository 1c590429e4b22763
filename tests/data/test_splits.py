"""Duplicates and splits."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from paddle_infra._core.errors import DataError, InvalidInputError
from paddle_infra.data import (
    TextExample,
    TokenExample,
    assert_no_leak,
    deduplicate,
    find_conflicts,
    read_conll,
    read_question_labels,
    split,
    text_key,
)


def text(content: str, label: str | None = "x", line: int = 1) -> TextExample:
    return TextExample(content, label, line)


def test_the_first_of_each_text_stays() -> None:
    examples = [
        text("b", line=1),
        text("A  a", line=2),
        text("a a", line=3),
        text("B", line=4),
        text("c", line=5),
    ]
    assert [e.line for e in deduplicate(examples)] == [1, 2, 5]


def test_the_same_text_with_two_labels() -> None:
    examples = [text("A", "x", 1), text("b", "x", 2), text("a", "y", 3), text("a", "x", 4)]
    assert find_conflicts(examples) == [[examples[0], examples[2], examples[3]]]
    with pytest.raises(
        DataError, match=r"one label per text, 1 texts have several: 'A' is 'x' in line 1, 'y' in line 3"
    ):
        deduplicate(examples)
    assert [e.line for e in deduplicate(examples, on_conflict="first")] == [1, 2]
    assert [e.line for e in deduplicate(examples, on_conflict="drop")] == [2]
    with pytest.raises(
        InvalidInputError, match="expected on_conflict 'error', 'first' or 'drop', got 'last'"
    ):
        deduplicate(examples, on_conflict="last")  # type: ignore[arg-type]


def test_sentences_are_compared_with_their_tags() -> None:
    one, other = TokenExample(("EU", "x"), ("B-ORG", "O"), 1), TokenExample(("eu", "x"), ("O", "O"), 4)
    assert deduplicate([one, one]) == [one]
    with pytest.raises(DataError, match="'EU x' is 'B-ORG O' in line 1, 'O O' in line 4"):
        deduplicate([one, other])


def test_splits_are_disjoint_complete_and_in_proportion() -> None:
    rng = random.Random(0)
    for trial in range(60):
        count = rng.randint(20, 200)
        numbers = [rng.randint(0, count) for _ in range(count)]
        examples = [
            text(rng.choice("qQ") + f" {n}", "xxxxyyz"[n % 7], line) for line, n in enumerate(numbers)
        ]
        groups = Counter(text_key(e.text) for e in examples)
        fractions = {"train": 0.6, "valid": 0.25, "test": 0.15}
        parts = split(examples, fractions, seed=trial, stratify=bool(trial % 2))
        assert list(parts) == list(fractions)
        assert sorted(e.line for part in parts.values() for e in part) == list(range(count))
        keys = [{text_key(e.text) for e in part} for part in parts.values()]
        assert sum(len(k) for k in keys) == len(set().union(*keys)) == len(groups)
        for name, part in parts.items():
            assert abs(len(part) - fractions[name] * count) <= max(groups.values())
            for label in "xyz" if trial % 2 else "":
                share = fractions[name] * sum(e.label == label for e in examples)
                assert abs(sum(e.label == label for e in part) - share) <= 2 * max(groups.values())
            assert [e.line for e in part] == sorted(e.line for e in part)


def test_a_stratified_split_keeps_the_proportions() -> None:
    examples = [
        text(f"{label} {i}", label) for label, n in (("a", 500), ("b", 50), ("c", 10)) for i in range(n)
    ]
    parts = split(examples, {"train": 0.8, "test": 0.2}, seed=3)
    assert Counter(e.label for e in parts["test"]) == {"a": 100, "b": 10, "c": 2}


def test_the_seed_decides() -> None:
    examples = [text(str(i), "xy"[i % 2]) for i in range(100)]
    half = {"a": 0.5, "b": 0.5}
    assert split(examples, half, seed=1) == split(examples, half, seed=1)
    assert split(examples, half, seed=1) != split(examples, half, seed=2)


def test_trec_and_conll_split_without_leaks(trec_file: Path, conll_dir: Path) -> None:
    questions = read_question_labels(trec_file)  # not deduplicated: repeated lines must stay together
    parts = split(questions, {"train": 0.9, "test": 0.1}, seed=0)
    assert_no_leak(parts["train"], parts["test"])
    shares = [Counter(e.label for e in parts[name]) for name in parts]
    assert all(
        abs(shares[1][label] / (shares[0][label] + shares[1][label]) - 0.1) < 0.03 for label in shares[0]
    )
    sentences = read_conll(conll_dir / "valid.txt")
    pieces = split(sentences, {"a": 0.5, "b": 0.5}, seed=0)
    tags = [Counter(label for e in piece for label in e.labels or ()) for piece in pieces.values()]
    assert all(abs(tags[0][tag] / (tags[0][tag] + tags[1][tag]) - 0.5) < 0.06 for tag in tags[0])


def test_the_official_conll_splits_do_share_sentences(conll_dir: Path) -> None:
    train, test = read_conll(conll_dir / "train.txt"), read_conll(conll_dir / "test.txt")
    with pytest.raises(
        DataError, match=r"expected no text in two splits, \d+ texts are: .*\(line \d+ of first, \d+ of"
    ):
        assert_no_leak(train, test)


def test_a_leak_is_named() -> None:
    with pytest.raises(DataError, match=r"1 texts are: 'HELLO' \(line 7 of first, 9 of second\)"):
        assert_no_leak([text("hello ", line=7)], [text("other"), text("HELLO", line=9)])
    assert_no_leak([text("hello"), text("hello")], [text("other")])


@pytest.mark.parametrize(
    "fractions",
    [{}, {"a": 0.5}, {"a": 0.5, "b": 0.6}, {"a": 1.0, "b": 0.0}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}],
)
def test_fractions_that_cannot_be(fractions: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="expected positive fractions with the sum 1, got "):
        split([text("a"), text("b")], fractions, seed=0)


def test_a_split_that_would_be_empty() -> None:
    with pytest.raises(DataError, match=r"'test' \(0.1\) gets none of 3 examples \(1 different texts\)"):
        split([text("a")] * 3, {"train": 0.9, "test": 0.1}, seed=0)
