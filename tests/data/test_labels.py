from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import DataError, InvalidInputError, StorageError
from paddle_infra.data import LabelMap, TextExample, TokenExample


def test_names_and_numbers() -> None:
    labels = LabelMap(["b", "a"])
    assert (labels.id_of("a"), labels.name_of(0), len(labels), labels.to_list()) == (1, "b", 2, ["b", "a"])
    assert "a" in labels
    assert "c" not in labels
    assert labels == LabelMap(("b", "a")) != LabelMap(["a", "b"])
    assert hash(labels) == hash(LabelMap(["b", "a"]))


def test_labels_of_examples() -> None:
    texts = [TextExample("t", label, 1) for label in ("y", "x", None, "y")]
    assert LabelMap.from_examples(texts).to_list() == ["x", "y"]
    sentences = [TokenExample(("a",) * 4, ("I-PER", "B-LOC", "B-PER", "O"), 1), TokenExample(("a",), None, 2)]
    assert LabelMap.from_examples(sentences).to_list() == ["O", "B-LOC", "B-PER", "I-PER"]
    with pytest.raises(InvalidInputError, match="at least one label name, got none"):
        LabelMap.from_examples([TextExample("t", None, 1)])


def test_unknown_names_and_numbers() -> None:
    labels = LabelMap(["a", "b"])
    with pytest.raises(InvalidInputError, match=r"expected one of the labels \['a', 'b'\], got 'c'"):
        labels.id_of("c")
    for number in (-1, 2):
        with pytest.raises(InvalidInputError, match=f"expected a label number from 0 to 1, got {number}"):
            labels.name_of(number)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "at least one label name"),
        (["a", ""], "not empty, got ''"),
        (["a", 1], "not empty, got 1"),
        (["a", "b", "a"], r"repeated: \['a'\]"),
    ],
)
def test_names_that_cannot_be(names: list[Any], reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        LabelMap(names)


def test_saved_and_loaded(tmp_path: Path) -> None:
    labels = LabelMap(["正面", "O", "B-x"])
    labels.save(tmp_path / "run/labels.json")
    assert LabelMap.load(tmp_path / "run/labels.json") == labels
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*folder: Is a directory"):
        labels.save(tmp_path / "folder")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "expected a label file in JSON, got Expecting"),
        ("[]", "expected a label file {'labels'"),
        ('{"labels": "ab"}', "expected a label file {'labels'"),
        ('{"labels": ["a", "a"]}', "expected different label names"),
        ('{"labels": [["a"]]}', "expected label names that are not empty"),
    ],
)
def test_a_damaged_label_file(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(DataError, match=rf"labels\.json: {reason}"):
        LabelMap.load(tmp_path / "labels.json")


def test_no_label_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.json: expected a label file: No such file"):
        LabelMap.load(tmp_path / "labels.json")
