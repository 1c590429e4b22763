"""Reads the rows of a benchmark's CSV file: those of the latest run."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks._attention_cases import Case
from benchmarks._harness import DATA

Row = Mapping[str, Any]
CONTEXT = ("commit", "date", "device", "python", "versions")
_FIELDS = ("batch", "seq_q", "seq_k", "heads", "kv_heads", "head_dim")


def read_rows(name: str, folder: Path = DATA) -> list[Row]:
    """Return the rows of ``<name>.csv`` with numbers as numbers; none if there is no such file."""
    path = folder / f"{name}.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [
            {key: text if key in CONTEXT else _value(text) for key, text in row.items()}
            for row in csv.DictReader(file)
        ]


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text)
    except ValueError:
        return text


def latest(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of each case's latest run, of each number of threads; quick runs count only if no other did.

    All contestants of a case are measured in one process, so rows of a case belong together; those of others need not.
    """
    rows = list(rows)
    rows = [row for row in rows if row["mode"] != "quick"] or rows
    dates: dict[tuple[Any, ...], str] = {}
    for row in rows:
        key = _measurement(row)
        dates[key] = max(row["date"], dates.get(key, ""))
    return [row for row in rows if row["date"] == dates[_measurement(row)]]


def _measurement(row: Row) -> tuple[Any, ...]:
    return (*(row.get(name) for name in (*_FIELDS, "option")), row["threads"])


def case_of(row: Row) -> Case:
    """Return the case that a row is about."""
    return Case(*(int(row[name]) for name in _FIELDS), option=row["option"])


class Table:
    """Rows by what they are about."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)
        self._index = {self._key(row): row for row in self.rows}

    @staticmethod
    def _key(row: Row) -> tuple[Any, ...]:
        return case_of(row), row["pass"], int(row["threads"]), row["contestant"], row.get("result", "")

    def find(self, case: Case, which: str, threads: int, contestant: str, result: str = "") -> Row | None:
        """Return the row, or None if that was not measured."""
        return self._index.get((case, which, threads, contestant, result))

    @property
    def cases(self) -> list[Case]:
        """The cases, in the order they were measured in."""
        return list(dict.fromkeys(case_of(row) for row in self.rows))

    @property
    def threads(self) -> list[int]:
        """The numbers of threads, smallest first."""
        return sorted({int(row["threads"]) for row in self.rows})
