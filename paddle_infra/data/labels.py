"""The classes of a task: names to numbers and back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from paddle_infra._core.atomic import write_json
from paddle_infra._core.errors import DataError, InvalidInputError
from paddle_infra.data.examples import TextExample, TokenExample


class LabelMap:
    """An immutable list of different label names; a label's number is its position.

    Raises:
        InvalidInputError: no names, an empty one, one that is not a string, or the same one twice.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        if not self._names:
            raise InvalidInputError("expected at least one label name, got none")
        for name in self._names:
            if not isinstance(name, str) or not name:
                raise InvalidInputError(f"expected label names that are not empty, got {name!r}")
        self._ids = {name: number for number, name in enumerate(self._names)}
        if len(self._ids) != len(self._names):
            repeated = sorted({name for name in self._names if self._names.count(name) > 1})
            raise InvalidInputError(f"expected different label names, these are repeated: {repeated}")

    @classmethod
    def from_examples(cls, examples: Sequence[TextExample | TokenExample]) -> LabelMap:
        """Return the labels that the examples use, sorted; ``O`` first, then by entity type.

        Raises:
            InvalidInputError: the examples have no labels.
        """
        names: set[str] = set()
        for example in examples:
            if isinstance(example, TokenExample):
                names.update(example.labels or ())
            elif example.label is not None:
                names.add(example.label)
        return cls(sorted(names, key=lambda name: (name != "O", name.partition("-")[2], name)))

    def id_of(self, name: str) -> int:
        """Return the number of a label.

        Raises:
            InvalidInputError: unknown name.
        """
        try:
            return self._ids[name]
        except KeyError:
            raise InvalidInputError(f"expected one of the labels {list(self._names)}, got {name!r}") from None

    def name_of(self, number: int) -> str:
        """Return the label with this number.

        Raises:
            InvalidInputError: no such number (negative ones too).
        """
        if not 0 <= number < len(self._names):
            raise InvalidInputError(f"expected a label number from 0 to {len(self._names) - 1}, got {number}")
        return self._names[number]

    def to_list(self) -> list[str]:
        """Return the names in the order of their numbers."""
        return list(self._names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the names to a JSON file, atomically.

        Raises:
            StorageError: the file cannot be written.
        """
        write_json(path, {"labels": self.to_list()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LabelMap:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: missing or damaged file.
        """
        source = Path(path)
        try:
            content = json.loads(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"expected a label file: {error.strerror or error}", source) from error
        except ValueError as error:
            raise DataError(f"expected a label file in JSON, got {error}", source) from error
        names = content.get("labels") if isinstance(content, dict) else None
        if not isinstance(names, list):
            raise DataError("expected a label file {'labels': [name, …]}, found no such list", source)
        try:
            return cls(names)
        except InvalidInputError as error:
            raise DataError(str(error), source) from error

    def __contains__(self, name: object) -> bool:
        return name in self._ids

    def __len__(self) -> int:
        return len(self._names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelMap) and self._names == other._names

    def __hash__(self) -> int:
        return hash(self._names)

    def __repr__(self) -> str:
        return f"LabelMap({list(self._names)})"
