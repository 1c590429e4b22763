"""Writes the figures of docs/ops/attention.md and its picture, from the latest full run of bench_attention.py.

python benchmarks/report_attention.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import _attention_tables as tables_of
from benchmarks._attention_cases import PASSES
from benchmarks._attention_plot import describe, speed_plot
from benchmarks._attention_targets import Tables, all_targets, targets_table
from benchmarks._harness import DATA, ROOT
from benchmarks._report_markdown import fill
from benchmarks._report_rows import Table, latest, read_rows

PAGE = ROOT / "docs/ops/attention.md"
PLOT = "attention_speed.svg"
FILES = ("attention", "attention_call", "attention_memory", "attention_accuracy", "attention_decode")
NOTHING = (
    "*Not measured yet: `python benchmarks/bench_attention.py && python benchmarks/report_attention.py`.*"
)


def read_tables(folder: Path = DATA) -> Tables:
    """Return the rows of the latest full run of each file."""
    return Tables(*(Table(latest(read_rows(name, folder))) for name in FILES))


def sections_of(tables: Tables) -> dict[str, str]:
    """Return the text of each section of the page."""

    def if_any(table: Table, write: Callable[[Table], str]) -> str:
        return write(table) if table.rows else NOTHING

    time = tables.time
    measured = [table for table in tables if table.rows]
    return {
        "context": tables_of.measured_with(measured) if measured else NOTHING,
        "targets": targets_table(all_targets(tables)) if measured else NOTHING,
        "plot": if_any(time, lambda table: f"![{describe(table)}]({PLOT})"),
        "forward": if_any(time, lambda table: tables_of.speed(table, PASSES[0])),
        "backward": if_any(time, lambda table: tables_of.speed(table, PASSES[1])),
        "peak": if_any(time, lambda table: f"{tables_of.peak_rates(table)}\n\n{tables_of.peaks(table)}"),
        "lengths": if_any(time, tables_of.lengths),
        "calls": if_any(tables.call, tables_of.calls),
        "memory": if_any(tables.memory, tables_of.memory),
        "accuracy": if_any(tables.accuracy, tables_of.accuracy),
        "decode": if_any(tables.decode, tables_of.decoding),
    }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the CSV files")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to write; the picture goes beside it")
    arguments = parser.parse_args()
    tables = read_tables(arguments.data)
    page = fill(arguments.page.read_text(encoding="utf-8"), sections_of(tables))
    arguments.page.write_text(page, encoding="utf-8")
    if tables.time.rows:
        (arguments.page.parent / PLOT).write_text(speed_plot(tables.time), encoding="utf-8")
    print(arguments.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
