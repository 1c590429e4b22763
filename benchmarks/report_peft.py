"""Writes the table of docs/peft.md from the latest rows of bench_peft.py.

python benchmarks/report_peft.py
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import DATA, ROOT
from benchmarks._report_markdown import fill, markdown_table
from benchmarks._report_rows import Row, read_rows

PAGE = ROOT / "docs/peft.md"
MISSING = "*Not measured yet: `bench_peft.py` measures, `report_peft.py` fills this in.*"
HEADER = (
    "method",
    "learning rate",
    "test accuracy",
    "over full",
    "trained parameters",
    "ms per step",
    "peak memory, MiB",
)


def table(rows: Sequence[Row]) -> str:
    """Return the table of one run: means over seeds and their range, medians of time and memory."""
    methods = {row["method"]: [r for r in rows if r["method"] == row["method"]] for row in rows}
    accuracies = {name: [row["test_accuracy"] for row in found] for name, found in methods.items()}
    means = {name: statistics.fmean(values) for name, values in accuracies.items()}
    lines = []
    for name, found in methods.items():
        values = accuracies[name]
        over = f"{means[name] / means['full']:.1%}" if "full" in means else "—"
        time, memory = (statistics.median(row[key] for row in found) for key in ("step_ms", "peak_mib"))
        trained = f"{found[0]['trained_parameters']:,.0f} ({found[0]['trained_share']:.2%})"
        lines.append(
            [
                name,
                f"{found[0]['learning_rate']:g}",
                f"{means[name]:.2%} ({min(values):.2%}–{max(values):.2%})",
                over,
                trained,
                f"{time:.0f}",
                f"{memory:.0f}",
            ]
        )
    return markdown_table(HEADER, lines)


def section(folder: Path = DATA) -> str:
    """Return the section of the latest run."""
    rows = read_rows("peft", folder)
    if not rows:
        return MISSING
    latest = max(row["date"] for row in rows)
    rows = [row for row in rows if row["date"] == latest]
    seeds = len({row["seed"] for row in rows})
    note = (
        f"Mean of {seeds} seeds, with the smallest and the largest accuracy; {rows[0]['epochs']:.0f} epochs, "
        f"{rows[0]['threads']:.0f} thread(s). {rows[0]['device']}, {latest} UTC."
    )
    return f"{table(rows)}\n\n{note}"


def main() -> None:
    """Fill the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(fill(page, {"table": section()}, "peft"), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
