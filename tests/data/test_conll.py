"""Column files: what is read, and where a file is said to be wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import DataError, InvalidInputError
from paddle_infra.data import TokenExample, read_conll


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(content: str) -> Path:
        path = tmp_path / "data.txt"
        path.write_text(content, encoding="utf-8", newline="")
        return path

    return write


def test_sentences_documents_blank_lines_and_line_numbers(file: Any) -> None:
    path = file("\ufeff-DOCSTART- -X- O\r\n\r\nEU N B-ORG\r\nno N O\r\n \t\n\n-DOCSTART-\nUN  N\tB-ORG \n")
    assert read_conll(path) == [
        TokenExample(("EU", "no"), ("B-ORG", "O"), 3),
        TokenExample(("UN",), ("B-ORG",), 8),
    ]


def test_columns_are_chosen_by_index(file: Any) -> None:
    path = file("1\tNew York\tB-LOC\tx\n")
    expected = [TokenExample(("New York",), ("B-LOC",), 1)]
    assert read_conll(path, token_column=1, label_column=2, delimiter="\t") == expected
    assert read_conll(path, token_column=1, label_column=None, delimiter="\t")[0].labels is None


def test_only_blanks_tabs_and_line_feeds_separate(file: Any) -> None:
    (example,) = read_conll(file("10\u00a0000 O\na\u2028b O\nc\x85d O\n"))
    assert example.tokens == ("10\u00a0000", "a\u2028b", "c\x85d")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-X I-X O B-X B-X", "B-X I-X O B-X B-X"),
        ("I-X I-X O I-X B-X I-Y", "B-X I-X O B-X B-X B-Y"),  # IOB1
        ("B-X I-X E-X S-X O S-Y", "B-X I-X I-X B-X O B-Y"),  # BIOES
        ("B-X M-X E-X S-X O S-Y", "B-X I-X I-X B-X O B-Y"),  # BMES
        ("B-X I-X L-X U-X O U-Y", "B-X I-X I-X B-X O B-Y"),  # BILOU
    ],
)
def test_every_scheme_becomes_iob2(file: Any, tags: str, expected: str) -> None:
    (example,) = read_conll(file("".join(f"w {tag}\n" for tag in tags.split())))
    assert example.labels == tuple(expected.split())


def test_other_labels_are_returned_as_they_are(file: Any) -> None:
    path = file("EU NNP\nno VB\n")
    assert read_conll(path, scheme="none")[0].labels == ("NNP", "VB")
    with pytest.raises(
        DataError, match=r"data\.txt:1: expected 'O' or one of .*, got 'NNP' \(scheme='none' reads"
    ):
        read_conll(path)


@pytest.mark.parametrize(
    ("content", "options", "line", "reason"),
    [
        ("a N O\nb O\n", {}, 2, "expected 3 columns, got 2: 'b O'"),
        ("\na O\n", {"token_column": 2}, 2, "expected a column 2, found 2 columns"),
        ("a O\n", {"label_column": -3}, 1, "expected a column -3, found 2 columns"),
        ("a\tO\n\tO\n", {"delimiter": "\t"}, 2, "expected a word in column 0, got an empty one"),
        ("a\tO\nb\t\n", {"delimiter": "\t"}, 2, "expected a label in column -1, got an empty one"),
        ("a O\nb X-PER\n", {}, 2, "expected 'O' or one of B-, I-, .*, got 'X-PER'"),
        ("a O\nb B-\n", {}, 2, "got 'B-'"),
        (
            "a B-X\n\nb O\nc I-X\n",
            {},
            4,
            r"'I-X' must follow B-X or I-X, it follows 'O' \(scheme iob2; on_invalid",
        ),
        ("a B-X\nb I-Y\n", {}, 2, "'I-Y' must follow B-Y or I-Y, it follows 'B-X'"),
        ("a I-X\nb B-Y\n", {"scheme": "iob1"}, 2, "'B-Y' must follow an entity of type Y, it follows 'I-X'"),
        ("a B-X\nb O\nc S-X\n", {}, 2, "after 'B-X' expected I-X or E-X, got 'O'"),
        ("a O\nb E-X\n", {}, 2, "'E-X' must follow B-X or I-X, it follows 'O'"),
        ("a S-X\nb B-X\n", {}, 2, "the entity of 'B-X' is not ended by E-X"),
        ("a S-X\n", {"scheme": "iob2"}, 1, "'S-X' belongs to the scheme bioes, not iob2"),
        ("a B-X\nb B-Z\n", {"allowed_labels": ["O", "B-X"]}, 2, r"label among \['B-X', 'O'\], got 'B-Z'"),
    ],
)
def test_errors_name_the_line(file: Any, content: str, options: Any, line: int, reason: str) -> None:
    with pytest.raises(DataError, match=rf"data\.txt:{line}: .*{reason}") as caught:
        read_conll(file(content), **options)
    assert caught.value.line == line


@pytest.mark.parametrize("content", ["", "\n \n", "-DOCSTART- -X- O\n\n"])
def test_a_file_without_sentences(file: Any, content: str) -> None:
    with pytest.raises(DataError, match=r"data\.txt: expected at least one"):
        read_conll(file(content))


def test_forbidden_tags_are_repaired_as_conlleval_reads_them(file: Any) -> None:
    path = file("a B-X\nb I-Y\nc O\nd I-X\ne I-X\n\nf I-Y\n")
    with pytest.raises(DataError):
        read_conll(path, scheme="iob2")
    first, second = read_conll(path, scheme="iob2", on_invalid="repair")
    assert first.labels == ("B-X", "B-Y", "O", "B-X", "I-X")
    assert second.labels == ("B-Y",)


def test_options_out_of_range(file: Any) -> None:
    path: Any = file("a O\n")
    with pytest.raises(InvalidInputError, match=r"expected scheme 'auto', .*, got 'bio'"):
        read_conll(path, scheme="bio")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="expected on_invalid 'error' or 'repair', got 'skip'"):
        read_conll(path, on_invalid="skip")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "sentences", "tokens", "entities"),
    # Entities per type: table 2 of Tjong Kim Sang and De Meulder (2003).
    [
        ("train", 14_041, 203_621, {"LOC": 7140, "MISC": 3438, "ORG": 6321, "PER": 6600}),
        ("valid", 3_250, 51_362, {"LOC": 1837, "MISC": 922, "ORG": 1341, "PER": 1842}),
        ("test", 3_453, 46_435, {"LOC": 1668, "MISC": 702, "ORG": 1661, "PER": 1617}),
    ],
)
def test_conll_2003_is_the_known_one(
    conll_dir: Path, name: str, sentences: int, tokens: int, entities: dict[str, int]
) -> None:
    examples = read_conll(conll_dir / f"{name}.txt", scheme="iob2")
    assert len(examples) == sentences
    assert sum(len(e.tokens) for e in examples) == tokens
    begins = Counter(label[2:] for e in examples for label in e.labels or () if label.startswith("B-"))
    assert begins == entities
    lines = (conll_dir / f"{name}.txt").read_text(encoding="utf-8").split("\n")
    for example in examples[:: len(examples) // 100]:
        for offset, token in enumerate(example.tokens):
            assert lines[example.line - 1 + offset].split(" ")[0] == token
    assert examples == read_conll(conll_dir / f"{name}.txt")
