"""Readers of delimited, JSON-lines and question-label files, and where they say that a file is wrong."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import DataError
from paddle_infra.data import TextExample, deduplicate, read_delimited, read_jsonl, read_question_labels


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "data.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def csv(path: Path, **options: Any) -> list[TextExample]:
    return read_delimited(path, **{"text_column": "text", "label_column": "label", **options})


def jsonl(path: Path, **options: Any) -> list[TextExample]:
    return read_jsonl(path, **{"text_key": "text", "label_key": "label", **options})


def test_delimited_with_quotes_blank_lines_and_line_numbers(file: Any) -> None:
    path = file('id,text,label\n1,"a, ""b""\nsecond line",x\n\n2,c  d,y\r\n')
    assert csv(path) == [TextExample('a, "b" second line', "x", 2), TextExample("c d", "y", 5)]


def test_delimited_without_header_and_by_index(file: Any) -> None:
    path = file("x\tone\ny\ttwo\n")
    options = {"delimiter": "\t", "has_header": False, "text_column": -1}
    assert csv(path, **options, label_column=0) == [TextExample("one", "x", 1), TextExample("two", "y", 2)]
    assert csv(path, **options, label_column=None)[0].label is None


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b""])
def test_a_byte_order_mark_is_no_part_of_the_first_name(file: Any, start: bytes) -> None:
    assert csv(file(start + b"text,label\na,x\n")) == [TextExample("a", "x", 2)]


def test_utf_16_and_old_line_ends(file: Any) -> None:
    assert csv(file("text,label\ra,x\r".encode("utf-16")), encoding="utf-16") == [TextExample("a", "x", 2)]


@pytest.mark.parametrize(
    ("content", "options", "line", "reason"),
    [
        ("txt,label\na,x\n", {}, 1, r"expected a column 'text', found \['txt', 'label'\]"),
        (
            "text,label\n",
            {"label_column": "class"},
            1,
            r"expected a column 'class', found \['text', 'label'\]",
        ),
        ("text,text\na,x\n", {}, 1, "expected different column names"),
        ("text,label\na,x\nb\n", {}, 3, r"expected 2 columns, got 1: \['b'\]"),
        ("text,label\na,x,y\n", {}, 2, "expected 2 columns, got 3"),
        ('text,label\n"a\nb",x\n"c,y\n', {}, 4, "bad quoting or field in the row that starts here"),
        ("text,label\na,x\n \t,y\n", {}, 3, "expected a text, got an empty one"),
        ("text,label\na,x\n,\n", {}, 3, "expected a text, got an empty one"),
        ("text,label\na,\n", {}, 2, "expected a label, got an empty one"),
        ("text,label\na,x\nb,z\n", {"allowed_labels": ["x", "y"]}, 3, r"label among \['x', 'y'\], got 'z'"),
        (b"text,label\na,x\nb\xff,x\n", {}, 3, "expected utf-8 text, got the bytes ff"),
        (
            "a,x\n",
            {"has_header": False, "text_column": 5, "label_column": 0},
            1,
            "column index below 2, got 5",
        ),
    ],
)
def test_delimited_errors_name_the_line(
    file: Any, content: str | bytes, options: dict[str, Any], line: int, reason: str
) -> None:
    path = file(content)
    with pytest.raises(DataError, match=rf"data\.txt:{line}: .*{reason}") as caught:
        csv(path, **options)
    assert (caught.value.path, caught.value.line) == (path, line)


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        (b"", {}, r"expected at least one example, the file is empty \(0 bytes\)"),
        (b" \n\n", {}, r"the file is empty \(3 bytes\)"),
        (b"text,label\n", {}, "expected at least one example, found none"),
        (b'""\n', {}, "expected at least one example, found none"),
        (
            b"a,x\n",
            {"has_header": False},
            "expected a column index because the file has no header, got 'text'",
        ),
        (b"text,label\na,x\n", {"delimiter": "::"}, "delimiter of one character, got '::'"),
        (b"text,label\na,x\n", {"encoding": "utf-88"}, "encoding that Python knows, got 'utf-88'"),
    ],
)
def test_delimited_errors_of_the_whole_file(
    file: Any, content: bytes, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DataError, match=rf"data\.txt:.*{reason}"):
        csv(file(content), **options)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.csv: expected a readable file: No such file"):
        csv(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="expected a readable file: Is a directory"):
        csv(tmp_path)


def test_jsonl(file: Any) -> None:
    path = file('{"text": "a\\u2028b", "label": "x"}\n\n{"label": 3, "text": "c", "more": []}\n')
    assert jsonl(path) == [TextExample("a b", "x", 1), TextExample("c", "3", 3)]
    assert jsonl(path, label_key=None)[1] == TextExample("c", None, 3)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "a", "label": }', "bad JSON: Expecting value at column 24"),
        ("[" * 100_000, "bad JSON: "),
        ('{"text": "a", "label": ' + "1" * 5000 + "}", "bad JSON: Exceeds the limit"),
        ('["a", "x"]', "expected a JSON object, got list"),
        ('{"txt": "a", "label": "x"}', r"expected the key 'text', found \['label', 'txt'\]"),
        ('{"text": "a"}', r"expected the key 'label', found \['text'\]"),
        ('{"text": 1, "label": "x"}', "expected a string in 'text', got int"),
        ('{"text": "a", "label": true}', "expected a string or whole number in 'label', got bool"),
        ('{"text": "a", "label": null}', "expected a string or whole number in 'label', got NoneType"),
        ('{"text": " ", "label": "x"}', "expected a text, got an empty one"),
        ('{"text": "\\ud800", "label": "x"}', "expected a text, got an empty one"),
    ],
)
def test_jsonl_errors_name_the_line(file: Any, line: str, reason: str) -> None:
    with pytest.raises(DataError, match=rf"data\.txt:2: {reason}"):
        jsonl(file('{"text": "a", "label": "x"}\n' + line + "\n"))


@pytest.mark.parametrize(
    "line", ["DESC manner How ?", "DESC: How ?", ":manner How ?", "DESC:manner", "DESC:manner  "]
)
def test_question_label_errors_name_the_line(file: Any, line: str) -> None:
    with pytest.raises(
        DataError, match=rf"data\.txt:2: expected 'COARSE:fine question', got '{re.escape(line)}'"
    ):
        read_question_labels(file(f"ABBR:exp What ?\n{line}\n"))


def test_question_labels_fine_and_latin_1(file: Any) -> None:
    path = file("LOC:city Which sister\xf0city ?\n".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"data\.txt:1: expected utf-8 text, got the bytes f0; .*pass encoding="
    ):
        read_question_labels(path)
    expected = [TextExample("Which sister\xf0city ?", "LOC:city", 1)]
    assert read_question_labels(path, fine=True, encoding="latin-1") == expected


def test_trec_questions_are_the_known_ones(trec_file: Path) -> None:
    examples = read_question_labels(trec_file, allowed_labels=["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"])
    assert len(examples) == 15_452
    fine = read_question_labels(trec_file, fine=True)
    assert len(set(trec_file.read_text(encoding="utf-8").splitlines())) == 5_382
    assert len({e.label for e in fine}) == 50
    unique = deduplicate(examples)
    assert len(unique) == 5_380  # two pairs of lines differ only in case, or only in the fine label
    assert Counter(e.label for e in unique) == {
        "ABBR": 86, "DESC": 1152, "ENTY": 1245, "HUM": 1215, "LOC": 824, "NUM": 858
    }  # fmt: skip
    with pytest.raises(DataError, match="expected one label per text, 1 texts have several"):
        deduplicate(fine)  # one question has two fine labels
    assert len(deduplicate(fine, on_conflict="drop")) == 5_379
