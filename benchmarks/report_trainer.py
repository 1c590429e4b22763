"""Writes the tables of docs/training.md from the latest rows of bench_trainer.py: what a loop costs.

python benchmarks/report_trainer.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import DATA, ROOT
from benchmarks._report_markdown import NOTHING, fill, joined, markdown_table
from benchmarks._report_rows import read_rows

PAGE = ROOT / "docs/training.md"
MISSING = "*Not measured yet: `make bench-trainer` measures and fills this in.*"
WANTED = 1.02  # time of a step in our loop over that in the hand-written one
OURS = {"paddle_infra": "no callbacks", "paddle_infra-callbacks": "progress, history, checkpoints"}
MODEL, TINY = "MiniLM-L6", "tiny"
Row = Mapping[str, Any]


class Figures:
    """The rows of each number of threads' latest run, by workload, number of threads and contestant."""

    def __init__(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        dates: dict[float, str] = {}
        for row in rows:
            dates[row["threads"]] = max(row["date"], dates.get(row["threads"], ""))
        latest = [row for row in rows if row["date"] == dates[row["threads"]]]
        self.of = {(row["workload"], int(row["threads"]), row["contestant"]): row for row in latest}
        self.threads = sorted({key[1] for key in self.of})
        self.names = list(dict.fromkeys(key[2] for key in self.of))
        self.context = {(row["device"], row["date"]) for row in latest}

    def cells(self, workload: str, name: str, column: str, digits: int, sign: str = "") -> str:
        """Return a column's median with its quantiles for each number of threads."""
        texts = []
        for n in self.threads:
            row = self.of.get((workload, n, name))
            if row is None or row[column] == "":
                texts.append(NOTHING)
                continue
            values = [row[f"{column}{quantile}"] for quantile in ("", "_q20", "_q80")]
            middle, low, high = (f"{value:{sign}.{digits}f}" for value in values)
            texts.append(f"{middle} ({low} to {high})")
        return joined(texts)


def targets_table(figures: Figures) -> str:
    """What was wanted of our loop and what was found, computed from the rows."""
    lines = []
    for name, title in OURS.items():
        needed = ((MODEL, name), (TINY, name), (MODEL, "paddle-loop"))
        known = [n for n in figures.threads if all((w, n, c) in figures.of for w, c in needed)]
        ratios = [figures.of[MODEL, n, name]["ratio"] for n in known]
        shares = [
            figures.of[TINY, n, name]["added_us"] * 1e-3 / figures.of[MODEL, n, "paddle-loop"]["median_ms"]
            for n in known
        ]
        what = f"{MODEL}, {title}: our step over the hand-written one"
        lines.append([what, f"≤ {WANTED}", *_verdict([f"{value:.4f}" for value in ratios], ratios, WANTED)])
        what = f"{title}: what is added to a tiny step, as a share of a step of {MODEL}"
        texts = [f"{share:.3%}" for share in shares]
        lines.append([what, f"≤ {WANTED - 1:.0%}", *_verdict(texts, shares, WANTED - 1)])
    return markdown_table(["", "wanted", "found", "met"], lines)


def _verdict(texts: list[str], values: list[float], limit: float) -> list[str]:
    if not values:
        return [NOTHING, NOTHING]
    return [joined(texts), "yes" if all(value <= limit for value in values) else "**no**"]


def times_table(figures: Figures) -> str:
    """All contestants: milliseconds, ratio, what is added to a step."""
    lines = []
    for name in figures.names:
        row = next(row for key, row in figures.of.items() if key[2] == name)
        milliseconds = [figures.of.get((MODEL, n, name)) for n in figures.threads]
        cells = [name if row["base"] else f"*{name}*", str(row["libraries"])]
        cells.append(joined([f"{found['median_ms']:.1f}" if found else NOTHING for found in milliseconds]))
        cells.append(figures.cells(MODEL, name, "ratio", 3))
        lines.append([*cells, figures.cells(TINY, name, "added_us", 0, "+")])
    header = [
        "loop",
        "libraries",
        f"{MODEL}, ms a step",
        "over its hand-written loop",
        "µs added to a tiny step",
    ]
    return markdown_table(header, lines)


def section(folder: Path = DATA) -> str:
    """Return the section."""
    rows = read_rows("trainer", folder)
    if not rows:
        return MISSING
    figures = Figures(rows)
    numbers = " · ".join(f"{n} thread" + ("s" if n > 1 else "") for n in figures.threads)
    where = "; ".join(sorted(f"{device}, {date} UTC" for device, date in figures.context))
    note = f"Cells have {numbers}; in brackets the 20 % and 80 % quantiles. {where}."
    return f"{targets_table(figures)}\n\n{note}\n\n{times_table(figures)}"


def main() -> None:
    """Fill the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(fill(page, {"table": section()}, "trainer"), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
