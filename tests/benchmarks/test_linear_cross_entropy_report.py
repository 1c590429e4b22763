"""From measured rounds to rows, and from rows to the page of linear_cross_entropy: with made-up figures."""

from __future__ import annotations

import pytest

from benchmarks import _harness, bench_linear_cross_entropy, report_linear_cross_entropy
from benchmarks._head_contestants import Case, disagreements
from benchmarks._report_markdown import fill

SMALL, LARGE = Case(64, 384, 77), Case(8192, 768, 131072)
CONTEXT = {"commit": "0123456789ab", "date": "2026-01-02 03:04", "device": "a processor", "python": "3.11"}
CONTEXT |= {"versions": "paddlepaddle 3.3.1"}
MS = {"fused": 1.0, "fused-medium": 0.5, "paddle": 4.0, "paddle-no-stride": 3.0, "torch": 1.1}
MS |= {"torch-bf16": 0.8, "torch-autocast": 0.7}


def time_rows(
    case: Case = SMALL, threads: int = 1, mode: str = "full", which: str = "step", **changed: float
) -> list[dict]:
    rounds = [
        {name: ms * scale * 1e-3 for name, ms in {**MS, **changed}.items()} for scale in (1.0, 3.0, 1.1)
    ]
    rows = bench_linear_cross_entropy.time_rows(case, which, threads, rounds)
    return [{"mode": mode, **row, **CONTEXT} for row in rows]


def memory_rows(case: Case, peaks: dict[str, float]) -> list[dict]:
    rows = [bench_linear_cross_entropy.memory_row(case, name, 2, int(peak)) for name, peak in peaks.items()]
    return [{"mode": "full", **row, **CONTEXT} for row in rows]


def figures(rows: list[dict]) -> report_linear_cross_entropy.Figures:
    return report_linear_cross_entropy.Figures(report_linear_cross_entropy.latest(rows))


def test_ratios_are_those_of_the_rounds_and_to_ours_of_the_same_precision():
    rows = {row["contestant"]: row for row in time_rows()}
    assert (rows["paddle"]["base"], rows["paddle"]["ratio"]) == ("fused", pytest.approx(4.0))
    assert (rows["torch-bf16"]["base"], rows["torch-bf16"]["ratio"]) == ("fused-medium", pytest.approx(1.6))
    assert (rows["fused"]["base"], rows["fused"]["ratio"]) == ("", "")
    assert rows["fused"]["median_ms"] == pytest.approx(1.1)


def test_the_peak_is_compared_with_inputs_and_gradients():
    (row,) = memory_rows(LARGE, {"fused": 1.2 * LARGE.tensor_bytes})
    assert LARGE.tensor_bytes == 4 * (768 * (8192 + 131072) + 131072)
    assert row["peak_ratio"] == pytest.approx(1.1)


def test_targets_take_the_better_of_each_peer():
    times, memory = figures(time_rows()), figures(memory_rows(LARGE, {"fused": 1.1e9}))
    lines = report_linear_cross_entropy.targets_table(times, memory).splitlines()
    assert lines[2:] == [
        "| time of Paddle over ours, geometric mean | ≥ 2 | 3.00 | yes |",
        "| time of PyTorch over ours, geometric mean | ≥ 1.2 | 1.10 | **no** |",
        "| the least of either | ≥ 1 | 1.10 | yes |",
        "| time of PyTorch in bfloat16 over ours in medium, geometric mean | ≥ 1.3 | 1.40 | yes |",
        "| peak over inputs and gradients, 8192 × 768 × 131072 | ≤ 1.1 | 1.78 | **no** |",
    ]


def test_a_quick_run_counts_only_without_a_full_one():
    quick = time_rows(mode="quick", fused=9.0)
    assert figures(quick).best(SMALL, 1, ["fused"])["median_ms"] == pytest.approx(9.9)
    assert figures([*time_rows(), *quick]).best(SMALL, 1, ["fused"])["median_ms"] == pytest.approx(1.1)


def test_a_case_without_a_number_of_threads_leaves_a_gap():
    table = report_linear_cross_entropy.time_table(figures([*time_rows(), *time_rows(LARGE, 2)]))
    lines = table.splitlines()
    assert lines[0].startswith("Cells: 1 thread · 2 threads")
    assert "| 64 × 384 × 77 | 1.1 · — |" in table
    assert "| 8192 × 768 × 131072 | — · 1.1 |" in table
    assert lines[-1].startswith("| **geometric mean** |  |  | 3.00 · 3.00 | 1.10 · 1.10 | 1.40 · 1.40 |")


def test_the_page_has_the_sections_and_rows_survive_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(_harness, "DATA", tmp_path)
    empty = report_linear_cross_entropy.sections_of(tmp_path)
    page = report_linear_cross_entropy.PAGE.read_text(encoding="utf-8")
    assert fill(page, empty, report_linear_cross_entropy.MARKER)
    _harness.append_rows(
        "linear_cross_entropy", [*time_rows(), *time_rows(which="forward", fused=2.0)], CONTEXT
    )
    _harness.append_rows("linear_cross_entropy_memory", memory_rows(LARGE, {"fused": 1e9}), CONTEXT)
    found = report_linear_cross_entropy.sections_of(tmp_path)
    assert found["context"].startswith("a processor; paddlepaddle 3.3.1; commit 0123456789ab; ")
    assert "3.00 (3.00–3.00)" in found["time"]
    assert "1.50 (1.50–1.50)" in found["evaluation"]
    assert "| 8192 × 768 × 131072 | 428.3 | 8589.9 | 1000.0 |" in found["memory"]


def test_contestants_that_disagree_are_named():
    assert disagreements({"fused": 7.0, "torch": 7.00001, "torch-bf16": 7.1}) == []
    (problem,) = disagreements({"fused": 7.0, "torch": 7.001, "torch-bf16": 7.1})
    assert problem == "the loss of torch is 7.00100, that of fused 7.00000"
