"""Writes Markdown tables, and puts them between the markers of a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

NOTHING = "—"  # a cell without a figure


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table.

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    lines = [list(header), ["---"] * len(header), *(list(row) for row in rows)]
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"expected {len(header)} cells, got {len(line)}: {line}")
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def ratio(value: float) -> str:
    """Write a ratio with three digits: 0.97, 3.41, 12.3, 240."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def joined(texts: Sequence[str]) -> str:
    """Write what belongs together, such as 1 thread and 2 threads, in one cell."""
    return " · ".join(texts) if any(text != NOTHING for text in texts) else NOTHING


def fill(page: str, sections: Mapping[str, str], marker: str = "attention") -> str:
    """Replace what is between ``<!-- attention:begin NAME -->`` and ``<!-- attention:end NAME -->``.

    Raises:
        ValueError: the page lacks a section, or has one that nobody writes.
    """
    pattern = re.compile(
        rf"(<!-- {marker}:begin (\S+) -->\n)(.*?)(<!-- {marker}:end \2 -->)", flags=re.DOTALL
    )
    found = [match[1] for match in pattern.findall(page)]
    if sorted(found) != sorted(sections):
        raise ValueError(f"expected the sections {sorted(sections)} in the page, found {sorted(found)}")
    return pattern.sub(lambda match: f"{match[1]}\n{sections[match[2]]}\n\n{match[4]}", page)
