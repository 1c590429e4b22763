"""The tables of docs/ops/attention.md, from rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from benchmarks._attention_cases import PASSES, Case
from benchmarks._report_markdown import NOTHING, joined, markdown_table, ratio
from benchmarks._report_rows import Row, Table

Text = Callable[[Row], str]


def better_paddle(table: Table, case: Case, which: str, threads: int) -> Row | None:
    """Return the row of the faster of Paddle's two settings."""
    found = [table.find(case, which, threads, name) for name in ("paddle-no-stride", "paddle")]
    return min((row for row in found if row), key=lambda row: row["median_ms"], default=None)


def over_threads(table: Table, find: Callable[[int], Row | None], text: Text) -> str:
    """Write one cell with a figure for each number of threads; ``*`` marks a disturbed measurement."""
    rows = [find(threads) for threads in table.threads]
    return joined([text(row) + ("*" if row.get("disturbed") else "") if row else NOTHING for row in rows])


def cell(table: Table, case: Case, which: str, name: str, text: Text) -> str:
    """Write one cell about a contestant."""
    return over_threads(table, lambda threads: table.find(case, which, threads, name), text)


def times(row: Row) -> str:
    """Write how many times slower than ours."""
    return ratio(row["ratio"])


def paddle_cell(table: Table, case: Case, which: str) -> str:
    """Write the ratio of Paddle's better setting, and in parentheses that of its default one."""

    def text(row: Row) -> str:
        default = table.find(case, which, int(row["threads"]), "paddle")
        return times(row) + (f" ({times(default)})" if default else "")

    return over_threads(table, lambda threads: better_paddle(table, case, which, threads), text)


def speed(table: Table, which: str) -> str:
    """Ratios for one pass, and our own time."""
    header = ("[B,S,H,D]", "ours, ms", "Paddle (default)", "PyTorch", "medium, ms", "PyTorch bf16 / medium")
    lines = [
        [
            str(case),
            cell(table, case, which, "fused", milliseconds),
            paddle_cell(table, case, which),
            cell(table, case, which, "torch", times),
            cell(table, case, which, "fused-medium", milliseconds),
            cell(table, case, which, "torch-bf16", times),
        ]
        for case in table.cases
    ]
    return markdown_table(header, lines)


def milliseconds(row: Row) -> str:
    """Write a time with three digits."""
    return f"{row['median_ms']:.3g}" if row["median_ms"] < 1000 else f"{row['median_ms']:.0f}"


def peaks(table: Table) -> str:
    """Fractions of what the machine's multiply-add units can do."""
    names = ("fused", "fused-medium")
    header = ("[B,S,H,D]", *(f"{p}, {n}" for n in ("float32", "medium") for p in PASSES))
    lines = [
        [
            str(case),
            *(
                cell(table, case, p, n, lambda row: f"{row['peak_fraction']:.0%}")
                for n in names
                for p in PASSES
            ),
        ]
        for case in table.cases
    ]
    return markdown_table(header, lines)


def peak_rates(table: Table) -> str:
    """Say which peaks the fractions are of."""
    parts = []
    for threads in table.threads:
        for name, kind in (("fused", "float32"), ("fused-medium", "bfloat16")):
            rows = [r for r in table.rows if r["contestant"] == name and int(r["threads"]) == threads]
            if rows:
                rate, isa = statistics.median(r["peak_gflops"] for r in rows), rows[0]["peak_isa"]
                parts.append(f"{kind} ({isa}) {rate:.0f} GFLOP/s with {count(threads)}")
    return "Measured peaks (medians): " + "; ".join(parts) + "."


def count(threads: int) -> str:
    """Write a number of threads."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def memory(table: Table) -> str:
    """Peak memory of one run, its results included."""
    header = ("[B,S,H,D]", "pass", "results, MB", "ours", "Paddle", "PyTorch", "ours / results")
    lines = []
    for case in table.cases:
        for which in PASSES:
            ours = table.find(case, which, table.threads[-1], "fused")
            if ours is None:
                continue
            figures = [
                cell(table, case, which, name, lambda row: f"{row['peak_mb']:.1f}")
                for name in ("fused", "paddle-no-stride", "torch")
            ]
            over = ratio(ours["peak_mb"] / ours["results_mb"])
            lines.append([str(case), which, f"{ours['results_mb']:.1f}", *figures, over])
    return markdown_table(header, lines)


def accuracy(table: Table) -> str:
    """Largest and mean errors of everyone, relative to the largest value."""
    names = ("fused", "paddle-no-stride", "torch", "fused-medium", "torch-bf16")
    header = ("[B,S,H,D]", "result", "ours", "Paddle", "PyTorch", "medium", "PyTorch bf16")

    def text(row: Row) -> str:
        return f"{row['max_error'] / row['max_value']:.1e} / {row['mean_error'] / row['max_value']:.1e}"

    lines = []
    for case in table.cases:
        for result in dict.fromkeys(row["result"] for row in table.rows):
            found = [table.find(case, PASSES[1], table.threads[-1], name, result) for name in names]
            lines.append(
                [str(case), result.replace("_", " "), *(text(row) if row else NOTHING for row in found)]
            )
    return markdown_table(header, lines)


def lengths(table: Table) -> str:
    """A padded batch against other ways to compute it; each cell is the other's time over ours."""
    columns = ("fused-varlen", "fused-dense", "fused-single", "torch", "torch-single", "paddle")
    header = (
        "[B,S,H,D]",
        "pass",
        "ours, packed",
        "ours, same work without padding",
        "ours, one by one",
        "PyTorch, mask",
        "PyTorch, one by one",
        "Paddle, mask",
    )
    lines = []
    for case in (case for case in table.cases if case.has_lengths):
        for which in PASSES:
            cells = [cell(table, case, which, name, times) for name in columns[:-1]]
            lines.append([str(case), which, *cells, paddle_cell(table, case, which)])
    return markdown_table(header, lines)


def calls(table: Table) -> str:
    """Microseconds of a call, and beyond relu's."""
    names = ("paddle-relu", "fused", "paddle-no-stride", "torch")
    header = ("[B,S,H,D]", "pass", "Paddle's relu, µs", "ours", "ours beyond relu", "Paddle", "PyTorch")
    lines = []
    for case in table.cases:
        for which in PASSES:
            relu, ours, paddle, torch = (
                cell(table, case, which, name, lambda row: f"{row['median_us']:.1f}") for name in names
            )
            beyond = cell(table, case, which, "fused", lambda row: f"{row['above_relu_median_us']:+.1f}")
            lines.append([str(case), which, relu, ours, beyond, paddle, torch])
    return markdown_table(header, lines)


def decoding(table: Table) -> str:
    """Inference with a cache."""
    header = (
        "[B,Sq/Sk,Hq/Hkv,D]",
        "ours, ms",
        "ours, GB/s",
        "a dot product, GB/s",
        "Paddle (default)",
        "PyTorch",
        "ours in bf16, GB/s",
        "PyTorch bf16 / ours in bf16",
    )

    def rate(row: Row) -> str:
        return f"{row['read_gb_per_s']:.1f}"

    lines = []
    for case in table.cases:
        ours, bf16, dot = (
            cell(table, case, PASSES[0], n, rate) for n in ("fused", "fused-bf16", "torch-dot")
        )
        lines.append(
            [
                str(case),
                cell(table, case, PASSES[0], "fused", milliseconds),
                ours,
                dot,
                paddle_cell(table, case, PASSES[0]),
                cell(table, case, PASSES[0], "torch", times),
                bf16,
                cell(table, case, PASSES[0], "torch-bf16", times),
            ]
        )
    return markdown_table(header, lines)


def measured_with(tables: Sequence[Table]) -> str:
    """Say where, when and with what the rows were measured."""
    rows = [row for table in tables for row in table.rows]

    def values(key: str) -> str:
        return " and ".join(sorted({row[key] for row in rows}))

    settings = sorted({row["settings"] for row in rows if row["settings"]})
    dates = sorted(row["date"] for row in rows)
    mode = "" if all(row["mode"] == "full" for row in rows) else " **Not a full run.**"
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    text = f"{values('device')}; {values('versions')}; Python {values('python')}; "
    text += f"commit {values('commit')}; {when} UTC."
    if settings:
        text += " Settings that are not Paddle's defaults: " + " or ".join(f"`{s}`" for s in settings) + "."
    return text + mode
