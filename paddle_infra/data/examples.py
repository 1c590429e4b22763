"""What the readers return: one labelled text, or one labelled sequence of words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextExample:
    """A text with at most one label.

    Attributes:
        text: the text, cleaned and not empty.
        label: its label, ``None`` if the data is unlabelled.
        line: the line of the file where it starts, from 1.
    """

    text: str
    label: str | None
    line: int


@dataclass(frozen=True)
class TokenExample:
    """A sentence of words with one label per word.

    Attributes:
        tokens: the words.
        labels: one label per word, ``None`` if the data is unlabelled.
        line: the line of the file where the sentence starts, from 1.
    """

    tokens: tuple[str, ...]
    labels: tuple[str, ...] | None
    line: int
