"""Readers for delimited, JSON-lines and question-label files. Every error names the file and the line."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from paddle_infra._core.errors import DataError
from paddle_infra.data._decode import decode_file
from paddle_infra.data.clean import clean_text
from paddle_infra.data.examples import TextExample

Column = str | int


def read_delimited(
    path: str | os.PathLike[str],
    *,
    text_column: Column,
    label_column: Column | None,
    delimiter: str = ",",
    encoding: str = "utf-8",
    has_header: bool = True,
    allowed_labels: Iterable[str] | None = None,
) -> list[TextExample]:
    """Read a CSV or TSV file (quoted as in RFC 4180; blank lines are skipped).

    Args:
        path: the file.
        text_column: name of the text's column, or its index from 0 (negative: from the end).
        label_column: the same for the label; ``None`` reads unlabelled texts.
        delimiter: one character.
        encoding: of the file; a byte order mark is dropped.
        has_header: whether the first row holds the column names. Without one, columns are given by index.
        allowed_labels: if given, any other label is an error.

    Raises:
        DataError: missing file or column, empty file, undecodable bytes, ragged row, bad quoting, empty text
            or label, label not allowed.
    """
    source = Path(path)
    rows = list(_rows(source, decode_file(source, encoding), delimiter))
    header = _header(*rows.pop(0), source) if has_header and rows else None
    if header is None and not rows:
        raise DataError("expected at least one example, found none", source)
    width = len(rows[0][1]) if header is None else len(header)
    text_at = _position(text_column, header, width, source)
    label_at = None if label_column is None else _position(label_column, header, width, source)
    allowed = _allowed(allowed_labels)
    examples = []
    for line, row in rows:
        if len(row) != width:
            raise DataError(f"expected {width} columns, got {len(row)}: {_short(row)}", source, line)
        label = None if label_at is None else row[label_at]
        examples.append(_example(row[text_at], label, allowed, source, line))
    return _not_empty(examples, source)


def read_jsonl(
    path: str | os.PathLike[str],
    *,
    text_key: str,
    label_key: str | None,
    encoding: str = "utf-8",
    allowed_labels: Iterable[str] | None = None,
) -> list[TextExample]:
    """Read a file of one JSON object per line (blank lines are skipped).

    The text must be a string; the label a string or a whole number (which becomes its decimal digits).

    Args:
        path: the file.
        text_key: key of the text.
        label_key: key of the label; ``None`` reads unlabelled texts.
        encoding: of the file; a byte order mark is dropped.
        allowed_labels: if given, any other label is an error.

    Raises:
        DataError: missing file or key, empty file, undecodable bytes, bad JSON, a value of another type,
            empty text or label, label not allowed.
    """
    source = Path(path)
    allowed = _allowed(allowed_labels)
    examples = []
    for line, raw in _filled_lines(decode_file(source, encoding)):
        try:
            record = json.loads(raw)
        except json.JSONDecodeError as error:
            raise DataError(f"bad JSON: {error.msg} at column {error.colno}", source, line) from error
        except (RecursionError, ValueError) as error:  # nested too deeply; a number of too many digits
            raise DataError(f"bad JSON: {error}", source, line) from error
        if not isinstance(record, dict):
            raise DataError(f"expected a JSON object, got {type(record).__name__}", source, line)
        for key in (text_key, label_key):
            if key is not None and key not in record:
                raise DataError(f"expected the key {key!r}, found {sorted(record)}", source, line)
        text = record[text_key]
        if not isinstance(text, str):
            raise DataError(f"expected a string in {text_key!r}, got {type(text).__name__}", source, line)
        label = None
        if label_key is not None:
            value = record[label_key]
            if isinstance(value, bool) or not isinstance(value, str | int):
                found = type(value).__name__
                raise DataError(
                    f"expected a string or whole number in {label_key!r}, got {found}", source, line
                )
            label = str(value)
        examples.append(_example(text, label, allowed, source, line))
    return _not_empty(examples, source)


def read_question_labels(
    path: str | os.PathLike[str],
    *,
    fine: bool = False,
    encoding: str = "utf-8",
    allowed_labels: Iterable[str] | None = None,
) -> list[TextExample]:
    """Read TREC questions: ``COARSE:fine question …`` on each line.

    The file of the resource ``trec-questions`` repeats lines: pass the result to
    :func:`paddle_infra.data.deduplicate` before splitting.

    Args:
        path: the file.
        fine: whether the label is ``COARSE:fine`` (50 classes) or ``COARSE`` (6 classes).
        encoding: ``utf-8`` for the resource ``trec-questions``, ``latin-1`` for the files of the original
            authors.
        allowed_labels: if given, any other label is an error.

    Raises:
        DataError: missing or empty file, undecodable bytes, a line of another form, label not allowed.
    """
    source = Path(path)
    allowed = _allowed(allowed_labels)
    examples = []
    for line, raw in _filled_lines(decode_file(source, encoding)):
        label, _, text = raw.partition(" ")
        coarse, colon, subclass = label.partition(":")
        if not (coarse and colon and subclass and text.strip()):
            raise DataError(f"expected 'COARSE:fine question', got {_short(raw)}", source, line)
        examples.append(_example(text, label if fine else coarse, allowed, source, line))
    return _not_empty(examples, source)


def _rows(source: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the line where it starts."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except TypeError as error:
        raise DataError(f"expected a delimiter of one character, got {delimiter!r}", source) from error
    line = 1
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"bad quoting or field in the row that starts here: {error}", source, line) from error


def _header(line: int, row: list[str], source: Path) -> list[str]:
    names = [name.strip() for name in row]
    if len(set(names)) != len(names):
        raise DataError(f"expected different column names, got {names}", source, line)
    return names


def _filled_lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines(): that also breaks at U+2028, form feed and others, which may stand inside a text.
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _position(column: Column, header: Sequence[str] | None, width: int, source: Path) -> int:
    if isinstance(column, str):
        if header is None:
            raise DataError(f"expected a column index because the file has no header, got {column!r}", source)
        if column not in header:
            raise DataError(f"expected a column {column!r}, found {list(header)}", source, 1)
        return header.index(column)
    if not -width <= column < width:
        raise DataError(f"expected a column index below {width}, got {column}", source, 1)
    return column


def _example(
    text: str, label: str | None, allowed: frozenset[str] | None, source: Path, line: int
) -> TextExample:
    cleaned = clean_text(text)
    if not cleaned:
        raise DataError(f"expected a text, got an empty one ({text!r})", source, line)
    if label is not None:
        label = clean_text(label)
        if not label:
            raise DataError("expected a label, got an empty one", source, line)
        if allowed is not None and label not in allowed:
            raise DataError(f"expected a label among {sorted(allowed)}, got {label!r}", source, line)
    return TextExample(cleaned, label, line)


def _allowed(labels: Iterable[str] | None) -> frozenset[str] | None:
    return None if labels is None else frozenset(labels)


def _not_empty(examples: list[TextExample], source: Path) -> list[TextExample]:
    if not examples:
        raise DataError("expected at least one example, found none", source)
    return examples


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 100 else shown[:97] + "..."
