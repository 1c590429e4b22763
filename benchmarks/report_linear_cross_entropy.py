"""Writes the figures of docs/ops/linear_cross_entropy.md from the latest rows of bench_linear_cross_entropy.py.

python benchmarks/report_linear_cross_entropy.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import DATA, ROOT, geometric_mean
from benchmarks._head_contestants import OURS, PADDLE, TORCH, TORCH_BF16, Case
from benchmarks._report_markdown import NOTHING, fill, joined, markdown_table, ratio
from benchmarks._report_rows import read_rows

PAGE = ROOT / "docs/ops/linear_cross_entropy.md"
MARKER = "linear_cross_entropy"
LARGEST = Case(8192, 768, 131072)
MISSING = (
    "*Not measured yet: `python benchmarks/bench_linear_cross_entropy.py && "
    "python benchmarks/report_linear_cross_entropy.py`.*"
)
Row = Mapping[str, Any]


def case_of(row: Row) -> Case:
    """Return the case that a row is about."""
    return Case(*(int(row[name]) for name in Case._fields))


def latest(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of the latest run of each case and number of threads; quick runs count only if no other did."""
    rows = list(rows)
    rows = [row for row in rows if row["mode"] != "quick"] or rows
    dates: dict[tuple[Case, float], str] = {}
    for row in rows:
        key = case_of(row), row["threads"]
        dates[key] = max(row["date"], dates.get(key, ""))
    return [row for row in rows if row["date"] == dates[case_of(row), row["threads"]]]


class Figures:
    """The rows of one pass by case, number of threads and contestant."""

    def __init__(self, rows: Iterable[Row], which: str = "step") -> None:
        self.rows = [row for row in rows if row.get("pass", which) == which]
        self.index = {(case_of(row), int(row["threads"]), row["contestant"]): row for row in self.rows}
        self.cases = list(dict.fromkeys(key[0] for key in self.index))
        self.threads = sorted({key[1] for key in self.index})

    def best(self, case: Case, threads: int, names: Sequence[str]) -> Row | None:
        """Return the row of the fastest of these contestants."""
        found = [self.index[case, threads, name] for name in names if (case, threads, name) in self.index]
        return min(found, key=lambda row: row["median_ms"]) if found else None

    def ratios(self, threads: int, names: Sequence[str]) -> list[float]:
        """Return the time of the fastest of these contestants over ours, for each case."""
        rows = [self.best(case, threads, names) for case in self.cases]
        return [row["ratio"] for row in rows if row]


def time_table(times: Figures) -> str:
    """Milliseconds of ours and ratios of the others, for each number of threads."""
    peers = (("Paddle", PADDLE), ("PyTorch", TORCH), ("PyTorch bf16 over medium", TORCH_BF16))
    header = ["rows × features × classes", "ms", "ms, medium", *(name for name, _ in peers)]
    lines = []
    for case in times.cases:
        cells = []
        for names in ((OURS[0],), (OURS[1],)):
            found = [times.best(case, n, names) for n in times.threads]
            cells.append(joined([f"{row['median_ms']:.3g}" if row else NOTHING for row in found]))
        for _, names in peers:
            found = [times.best(case, n, names) for n in times.threads]
            cells.append(joined([_with_quantiles(row) if row else NOTHING for row in found]))
        lines.append([str(case).replace("x", "×"), *cells])
    means = [[ratio(geometric_mean(found)) if (found := times.ratios(n, names)) else NOTHING for n in times.threads]
             for _, names in peers]  # fmt: skip
    lines.append(["**geometric mean**", "", "", *(joined(texts) for texts in means)])
    numbers = " · ".join(f"{n} thread" + ("s" if n > 1 else "") for n in times.threads)
    return f"Cells: {numbers}; in brackets the 20 % and 80 % quantiles.\n\n{markdown_table(header, lines)}"


def _with_quantiles(row: Row) -> str:
    return f"{ratio(row['ratio'])} ({ratio(row['ratio_q20'])}–{ratio(row['ratio_q80'])})"


def memory_table(memory: Figures) -> str:
    """What a step takes above its inputs."""
    names = (*OURS, "paddle", *TORCH, *TORCH_BF16)
    header = ["rows × features × classes", "gradients", "logits and theirs", *names]
    header.append("peak over inputs and gradients")
    threads, lines = max(memory.threads), []
    for case in memory.cases:
        rows = [memory.index.get((case, threads, name)) for name in names]
        cells = [f"{row['step_mb']:.1f}" if row else NOTHING for row in rows]
        ours = [f"{row['peak_ratio']:.2f}" if row else NOTHING for row in rows[:2]]
        computed = [f"{1e-6 * size:.1f}" for size in (case.tensor_bytes, 2 * case.logit_bytes)]
        lines.append([str(case).replace("x", "×"), *computed, *cells, joined(ours)])
    note = "The first two columns are computed: the gradients, and what a dense head must hold beside them."
    return f"{note}\n\n{markdown_table(header, lines)}"


def _target(what: str, bound: str, texts: list[tuple[str, bool]]) -> list[str]:
    verdict = "not measured" if not texts else "yes" if all(met for _, met in texts) else "**no**"
    return [what, bound, joined([text for text, _ in texts]) if texts else NOTHING, verdict]


def targets_table(times: Figures, memory: Figures) -> str:
    """What the operator should reach, and whether it does."""

    def means(names: Sequence[str], bound: float) -> list[tuple[str, bool]]:
        found = [times.ratios(n, names) for n in times.threads]
        return [(ratio(m), m >= bound) for m in (geometric_mean(values) for values in found if values)]

    def least(names: Sequence[str]) -> list[tuple[str, bool]]:
        found = [times.ratios(n, names) for n in times.threads]
        return [(ratio(min(values)), min(values) >= 1.0) for values in found if values]

    rows = [memory.index.get((LARGEST, n, name)) for n in memory.threads for name in OURS]
    peaks = [(f"{row['peak_ratio']:.2f}", row["peak_ratio"] <= 1.1) for row in rows if row]
    lines = [
        _target("time of Paddle over ours, geometric mean", "≥ 2", means(PADDLE, 2.0)),
        _target("time of PyTorch over ours, geometric mean", "≥ 1.2", means(TORCH, 1.2)),
        _target("the least of either", "≥ 1", least((*PADDLE, *TORCH))),
        _target(
            "time of PyTorch in bfloat16 over ours in medium, geometric mean", "≥ 1.3", means(TORCH_BF16, 1.3)
        ),
        _target(f"peak over inputs and gradients, {LARGEST}".replace("x", "×"), "≤ 1.1", peaks),
    ]
    return markdown_table(["", "wanted", "found", "met"], lines)


def context_text(rows: Sequence[Row]) -> str:
    """Say where, when and with what the rows were measured."""

    def values(key: str) -> str:
        return " and ".join(sorted({row[key] for row in rows}))

    quick = " **Not a full run.**" if any(row["mode"] == "quick" for row in rows) else ""
    dates = sorted(row["date"] for row in rows)
    turns = statistics.median(row["rounds"] for row in rows if "rounds" in row)
    text = f"{values('device')}; {values('versions')}; commit {values('commit')}; {dates[0]} to {dates[-1]} UTC; "
    return f"{text}{turns:g} rounds in the median.{quick}"


def sections_of(folder: Path = DATA) -> dict[str, str]:
    """Return the text of each section of the page."""
    rows = latest(read_rows("linear_cross_entropy", folder))
    times, evaluation = Figures(rows), Figures(rows, "forward")
    memory = Figures(latest(read_rows("linear_cross_entropy_memory", folder)))
    if not times.rows:
        return dict.fromkeys(("context", "targets", "time", "evaluation", "memory"), MISSING)
    return {
        "context": context_text([*rows, *memory.rows]),
        "targets": targets_table(times, memory),
        "time": time_table(times),
        "evaluation": time_table(evaluation),
        "memory": memory_table(memory) if memory.rows else MISSING,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the CSV files")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to write")
    arguments = parser.parse_args()
    page = fill(arguments.page.read_text(encoding="utf-8"), sections_of(arguments.data), MARKER)
    arguments.page.write_text(page, encoding="utf-8")
    print(arguments.page)


if __name__ == "__main__":
    main()
