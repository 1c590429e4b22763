"""Prints how data-parallel training scales, from the rows of scaling.py: the latest of each number of processes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks._report_markdown import NOTHING, markdown_table
from benchmarks._report_rows import read_rows

KEYS = ("model", "batch", "length", "place")


def scaling_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return sequences per second and efficiency: the share of what as many single processes would reach."""
    latest: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        latest[(*(row[key] for key in KEYS), int(row["processes"]))] = row
    lines = []
    for (*case, processes), row in sorted(latest.items(), key=lambda item: (str(item[0][:-1]), item[0][-1])):
        alone = latest.get((*case, 1))
        rate = row["sequences_per_second"]
        efficiency = f"{rate / (processes * alone['sequences_per_second']):.0%}" if alone else NOTHING
        name = f"{case[0]}, {int(case[1])} × {int(case[2])} per process, {case[3]}"
        lines.append([name, str(processes), f"{rate:.1f}", efficiency])
    return markdown_table(["training", "processes", "sequences per second", "efficiency"], lines)


def main() -> None:
    """Print the table."""
    print(scaling_table(read_rows("scaling")))


if __name__ == "__main__":
    main()
