"""Reader for column files with one word per line (CoNLL). Every error names the file and the line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from paddle_infra._core.errors import DataError, InvalidInputError
from paddle_infra.data._decode import decode_file
from paddle_infra.data.examples import TokenExample
from paddle_infra.data.tags import Scheme, detect_scheme, parse_tag, to_iob2, transition_error

_BLANKS = re.compile(r"[ \t]+")  # not str.split(): a no-break space may stand inside a word
_DOCUMENT = "-DOCSTART-"


@dataclass
class _Sentence:
    line: int
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


def read_conll(
    path: str | os.PathLike[str],
    *,
    token_column: int = 0,
    label_column: int | None = -1,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    scheme: Literal["auto", "iob1", "iob2", "bioes", "none"] = "auto",
    on_invalid: Literal["error", "repair"] = "error",
    allowed_labels: Iterable[str] | None = None,
) -> list[TokenExample]:
    """Read sentences separated by blank lines; entity tags of any scheme are returned as IOB2.

    ``-DOCSTART-`` lines are skipped.

    Args:
        path: the file.
        token_column: index of the word's column, from 0 (negative: from the end).
        label_column: the same for the tag; ``None`` reads unlabelled sentences.
        delimiter: what separates columns; ``None``: any run of blanks and tabs.
        encoding: of the file; a byte order mark is dropped.
        scheme: the file's tagging scheme. ``"auto"`` takes the one whose rules the whole file keeps; see
            :func:`paddle_infra.data.tags.detect_scheme`. ``"none"`` returns the labels as they are (parts of
            speech).
        on_invalid: a tag that the scheme forbids there (``I-PER`` after ``O`` in IOB2) is an error, or is
            repaired as ``conlleval`` reads it: it begins an entity.
        allowed_labels: if given, any other tag *after* the conversion to IOB2 is an error.

    Raises:
        DataError: missing or empty file, undecodable bytes, ragged row, missing column, empty word, unknown
            or forbidden tag, tag not allowed.
        InvalidInputError: ``scheme`` or ``on_invalid`` is none of the values above.
    """
    if scheme not in ("auto", "iob1", "iob2", "bioes", "none"):
        raise InvalidInputError(f"expected scheme 'auto', 'iob1', 'iob2', 'bioes' or 'none', got {scheme!r}")
    if on_invalid not in ("error", "repair"):
        raise InvalidInputError(f"expected on_invalid 'error' or 'repair', got {on_invalid!r}")
    source = Path(path)
    sentences = _sentences(source, decode_file(source, encoding), token_column, label_column, delimiter)
    if not sentences:
        raise DataError("expected at least one sentence, found none", source)
    if label_column is None:
        return [TokenExample(tuple(s.tokens), None, s.line) for s in sentences]
    if scheme != "none":
        _to_iob2(sentences, scheme, on_invalid == "repair", source)
    if allowed_labels is not None:
        _check_allowed(sentences, frozenset(allowed_labels), source)
    return [TokenExample(tuple(s.tokens), tuple(s.tags), s.line) for s in sentences]


def _sentences(
    source: Path, text: str, token_column: int, label_column: int | None, delimiter: str | None
) -> list[_Sentence]:
    sentences: list[_Sentence] = []
    current: _Sentence | None = None
    width: int | None = None
    for line, raw in enumerate(text.split("\n"), start=1):
        # Only blanks and tabs: with a delimiter, an empty column at the end of the row must stay.
        row = _BLANKS.split(raw.strip(" \t")) if delimiter is None else raw.split(delimiter)
        if not raw.strip(" \t") or row[0] == _DOCUMENT:
            current = None
            continue
        if width is None:
            width = len(row)
            _check_column(token_column, width, source, line)
            if label_column is not None:
                _check_column(label_column, width, source, line)
        if len(row) != width:
            raise DataError(f"expected {width} columns, got {len(row)}: {raw!r}", source, line)
        if current is None:
            current = _Sentence(line)
            sentences.append(current)
        if not row[token_column].strip():
            raise DataError(f"expected a word in column {token_column}, got an empty one", source, line)
        current.tokens.append(row[token_column])
        if label_column is not None:
            if not row[label_column].strip():
                raise DataError(f"expected a label in column {label_column}, got an empty one", source, line)
            current.tags.append(row[label_column])
    return sentences


def _check_column(column: int, width: int, source: Path, line: int) -> None:
    if not -width <= column < width:
        raise DataError(f"expected a column {column}, found {width} columns", source, line)


def _to_iob2(
    sentences: list[_Sentence], scheme: Literal["auto", "iob1", "iob2", "bioes"], repair: bool, source: Path
) -> None:
    """Check the tags and replace them by IOB2."""
    for sentence in sentences:
        for position, tag in enumerate(sentence.tags):
            try:
                parse_tag(tag)
            except ValueError as error:
                raise DataError(
                    f"{error} (scheme='none' reads any label)", source, sentence.line + position
                ) from error
    used: Scheme = detect_scheme(s.tags for s in sentences) if scheme == "auto" else scheme
    for sentence in sentences:
        if not repair and (found := transition_error(sentence.tags, used)):
            position, reason = found
            message = f"{reason} (scheme {used}; on_invalid='repair' accepts it)"
            raise DataError(message, source, sentence.line + position)
        sentence.tags = list(to_iob2(sentence.tags, used))


def _check_allowed(sentences: list[_Sentence], allowed: frozenset[str], source: Path) -> None:
    for sentence in sentences:
        for position, label in enumerate(sentence.tags):
            if label not in allowed:
                message = f"expected a label among {sorted(allowed)}, got {label!r}"
                raise DataError(message, source, sentence.line + position)
