"""Writes the tables of docs/ops/linear.md and docs/speed.md from the CSV files.

    python benchmarks/report_layers.py

Each file's latest run counts. Ratios are the other's time over ours: above 1, ours is faster.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import DATA, ROOT, geometric_mean
from benchmarks._report_markdown import NOTHING, fill, joined, markdown_table, ratio
from benchmarks._report_rows import read_rows

Row = Mapping[str, Any]
Key = tuple[Any, ...]
PADDLE = ("paddle", "paddle-no-stride")
LARGE_ROWS = 512  # from here on a product, not its memory, decides


def latest(rows: Iterable[Row], case: Callable[[Row], Key]) -> list[Row]:
    """Return the rows of the latest run of each case."""
    rows, dates = list(rows), {}
    for row in rows:
        dates[case(row)] = max(row["date"], dates.get(case(row), ""))
    return [row for row in rows if row["date"] == dates[case(row)]]


class Times:
    """Medians by case, number of threads and contestant."""

    def __init__(self, rows: Iterable[Row], case: Callable[[Row], Key], value: str) -> None:
        self.of = {(case(row), int(row["threads"]), row["contestant"]): float(row[value]) for row in rows}
        self.cases = list(dict.fromkeys(key[0] for key in self.of))
        self.threads = sorted({key[1] for key in self.of})

    def ratio(self, case: Key, threads: int, others: Iterable[str], ours: str) -> float | None:
        """Return the best of the others' times over ours."""
        times = [self.of[case, threads, name] for name in others if (case, threads, name) in self.of]
        mine = self.of.get((case, threads, ours))
        return min(times) / mine if times and mine else None

    def cell(self, case: Key, others: Iterable[str], ours: str) -> str:
        """Ratios for each number of threads."""
        found = [self.ratio(case, n, others, ours) for n in self.threads]
        return joined([NOTHING if value is None else ratio(value) for value in found])

    def means(self, others: Iterable[str], ours: str) -> str:
        """Geometric means and smallest ratios over all cases."""
        texts = []
        for n in self.threads:
            found = [value for case in self.cases if (value := self.ratio(case, n, others, ours)) is not None]
            texts.append(f"{ratio(geometric_mean(found))} (least {ratio(min(found))})" if found else NOTHING)
        return joined(texts)


def _linear_case(row: Row) -> Key:
    return (int(row["rows"]), int(row["features"]), int(row["columns"]), row["activation"], row["pass"])


def linear_sections(folder: Path = DATA) -> dict[str, str]:
    """Return the sections of the linear layer's page."""
    rows = latest(read_rows("linear", folder), _linear_case)
    if not rows:
        missing = (
            "*Not measured yet: `python benchmarks/bench_linear.py && python benchmarks/report_layers.py`.*"
        )
        return {"targets": missing, "table": missing}
    times = Times(rows, _linear_case, "median_ms")
    peaks = Times(rows, _linear_case, "peak_fraction")
    disturbed = {_linear_case(row) for row in rows if row.get("disturbed") is True}
    table = linear_table(times, peaks, disturbed)
    if disturbed:
        table += f"\n\n\\* {len(disturbed)} of {len(times.cases)} cases: something else ran on the machine meanwhile."
    return {"targets": linear_targets(times, peaks), "table": table}


def linear_targets(times: Times, peaks: Times) -> str:
    """What was wanted and what was found, each computed from the rows, misses included."""

    def line(what: str, wanted: float, found: list[list[float]], percent: bool = False) -> list[str]:
        def text(value: float) -> str:
            return f"{value:.0%}" if percent else ratio(value)

        known = [values for values in found if values]
        cells = [
            NOTHING if not values else f"{text(geometric_mean(values))} (least {text(min(values))})"
            for values in found
        ]
        misses = sum(value < wanted for values in known for value in values)
        total = sum(map(len, known))
        met = NOTHING if not known else "yes" if not misses else f"**no**: {misses} of {total} cases miss it"
        return [what, f"≥ {text(wanted)}", joined(cells), met]

    def ratios(others: Iterable[str], ours: str) -> list[list[float]]:
        found = [[times.ratio(case, n, others, ours) for case in times.cases] for n in times.threads]
        return [[value for value in values if value is not None] for values in found]

    large = [case for case in peaks.cases if case[0] >= LARGE_ROWS]
    shares = [
        [peaks.of[case, n, "fused-medium"] for case in large if (case, n, "fused-medium") in peaks.of]
        for n in peaks.threads
    ]
    lines = [
        line(
            "time of the better of Paddle and PyTorch over ours, float32",
            1.0,
            ratios((*PADDLE, "torch"), "fused"),
        ),
        line("time of PyTorch in bfloat16 over ours in medium", 1.0, ratios(["torch-bf16"], "fused-medium")),
        line("the same with the weight kept rounded (forward)", 1.0, ratios(["torch-bf16"], "fused-packed")),
        line(f"medium's share of the bfloat16 peak, {LARGE_ROWS} rows or more", 0.5, shares, percent=True),
    ]
    header = ["every case", "wanted", "geometric mean", "met"]
    return f"Cells have {_thread_numbers(times)}.\n\n{markdown_table(header, lines)}"


def linear_table(times: Times, peaks: Times, disturbed: Collection[Key] = ()) -> str:
    """Ratios of the linear layer; cases that were disturbed have a star."""
    header = [
        "rows × in × out, activation, pass",
        "Paddle",
        "PyTorch",
        "PyTorch bf16 over medium",
        "share of the peak: highest, medium",
    ]
    lines = []
    for key in times.cases:
        share = joined([
            ", ".join(f"{peaks.of[key, n, name]:.0%}" for name in ("fused", "fused-medium")) for n in peaks.threads
        ])  # fmt: skip
        name = f"{key[0]} × {key[1]} × {key[2]}, {key[3]}, {key[4]}" + (" \\*" if key in disturbed else "")
        lines.append([name, times.cell(key, PADDLE, "fused"), times.cell(key, ["torch"], "fused"),
                      times.cell(key, ["torch-bf16"], "fused-medium"), share])  # fmt: skip
    lines.append(["**geometric mean**", times.means(PADDLE, "fused"), times.means(["torch"], "fused"),
                  times.means(["torch-bf16"], "fused-medium"), ""])  # fmt: skip
    return f"Cells have {_thread_numbers(times)}.\n\n{markdown_table(header, lines)}"


def _thread_numbers(times: Times) -> str:
    return " · ".join(f"{n} thread" + ("s" if n > 1 else "") for n in times.threads)


def encoder_table() -> str:
    """Milliseconds of whole encoders."""

    def case(row: Row) -> Key:
        return (row["model"], int(row["batch"]), int(row["length"]), row["work"])

    rows = latest(read_rows("encoder"), case)
    if not rows:
        return (
            "*Not measured yet: `python benchmarks/bench_encoder.py && python benchmarks/report_layers.py`.*"
        )
    times = Times(rows, case, "median_ms")
    peaks = {(case(row), row["contestant"]): row["peak_mb"] for row in rows if row["peak_mb"] != ""}
    names = list(dict.fromkeys(key[2] for key in times.of))
    order = ["fused", "fused-medium", "paddle", "paddle-no-stride"]
    names = order + [name for name in names if name not in order]
    parts = []
    for key in times.cases:
        lines = []
        for name in names:
            cells = [times.of.get((key, n, name)) for n in times.threads]
            if cells[0] is None and cells[-1] is None:
                continue
            milliseconds = joined([NOTHING if value is None else f"{value:.1f}" for value in cells])
            peak = f"{peaks[key, name]:.0f}" if (key, name) in peaks else NOTHING
            ours = [times.cell(key, [name], "fused"), times.cell(key, [name], "fused-medium")]
            lines.append([name, milliseconds, *ours, peak])
        header = ["", "ms", "over highest", "over medium", "peak MB"]
        parts.append(f"**{key[0]}, {key[3]}, {key[1]} × {key[2]}**\n\n{markdown_table(header, lines)}")
    return f"Cells have {_thread_numbers(times)}.\n\n" + "\n\n".join(parts)


def main() -> None:
    """Fill the pages."""
    pages = {
        "docs/ops/linear.md": ("linear", linear_sections),
        "docs/speed.md": ("encoder", lambda: {"table": encoder_table()}),
    }
    for name, (marker, write) in pages.items():
        path = ROOT / name
        path.write_text(fill(path.read_text(encoding="utf-8"), write(), marker), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
