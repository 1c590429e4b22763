"""From rows of bench_linear.py to the sections of the page: with made-up figures."""

from __future__ import annotations

import csv

import pytest

from benchmarks import bench_linear, report_layers
from benchmarks._report_markdown import fill

CONTEXT = {"commit": "0123456789ab", "device": "a processor", "python": "3.11", "versions": "a 1"}
MS = {"fused": 1.0, "fused-medium": 0.5, "fused-packed": 0.4, "paddle": 4.0, "paddle-no-stride": 3.0}
MS |= {"torch": 1.2, "torch-bf16": 0.6}
SMALL, LARGE = bench_linear.Case(128, 384, 384, "none"), bench_linear.Case(512, 768, 3072, "gelu")


def rows(case=LARGE, date="2026-01-02 03:04", threads=1, disturbed=False, **changed):
    rounds = [
        {name: ms * scale * 1e-3 for name, ms in {**MS, **changed}.items()} for scale in (1.0, 1.1, 9.0)
    ]
    rate = case.operations("forward") / MS["fused-medium"] / 1.1 * 1e-6
    peak = {"float32": rate, "bfloat16": 2 * rate}
    found = bench_linear.rows_of(
        case, threads, {"forward": {"rounds": rounds, "peak": peak, "disturbed": disturbed}}
    )
    return [{**row, "date": date, **CONTEXT} for row in found]


@pytest.fixture
def sections(tmp_path):
    def write(*parts):
        table = [row for part in parts for row in part]
        with open(tmp_path / "linear.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, table[0])
            writer.writeheader()
            writer.writerows(table)
        return report_layers.linear_sections(tmp_path)

    return write


def test_rows_have_ratios_to_ours_of_the_same_precision_and_shares_of_the_peak():
    found = {row["contestant"]: row for row in rows()}
    assert (found["torch"]["base"], found["torch"]["ratio"]) == ("fused", pytest.approx(1.2))
    assert (found["torch-bf16"]["base"], found["torch-bf16"]["ratio"]) == ("fused-medium", pytest.approx(1.2))
    assert found["fused-medium"]["peak_fraction"] == pytest.approx(0.5)
    assert found["fused"]["peak_fraction"] == pytest.approx(0.5)


def test_operations_count_the_products_of_the_backward_pass():
    assert SMALL.operations("forward") == 2 * 128 * 384 * 384
    assert SMALL.operations("forward+backward") == 3 * SMALL.operations("forward")


def test_targets_are_met_only_if_every_case_meets_them(sections):
    met = sections(rows(LARGE), rows(SMALL))["targets"].splitlines()[4:]
    assert met == [
        "| time of the better of Paddle and PyTorch over ours, float32 | ≥ 1.00 | 1.20 (least 1.20) | yes |",
        "| time of PyTorch in bfloat16 over ours in medium | ≥ 1.00 | 1.20 (least 1.20) | yes |",
        "| the same with the weight kept rounded (forward) | ≥ 1.00 | 1.50 (least 1.50) | yes |",
        "| medium's share of the bfloat16 peak, 512 rows or more | ≥ 50% | 50% (least 50%) | yes |",
    ]
    missed = sections(rows(LARGE), rows(SMALL, torch=0.3))["targets"]
    assert "| 0.60 (least 0.30) | **no**: 1 of 2 cases miss it |" in missed


def test_only_the_latest_rows_of_a_case_count(sections):
    old = rows(LARGE, "2025-01-01 00:00", torch=9.0)
    assert sections(old, rows(LARGE)) == sections(rows(LARGE))


def test_what_was_disturbed_is_marked(sections):
    text = sections(rows(LARGE), rows(SMALL, disturbed=True))["table"]
    assert "| 512 × 768 × 3072, gelu, forward |" in text
    assert "| 128 × 384 × 384, none, forward \\* |" in text
    assert text.endswith("1 of 2 cases: something else ran on the machine meanwhile.")
    assert "meanwhile" not in sections(rows())["table"]


def test_more_than_the_peak_is_a_disturbance():
    found = {row["contestant"]: row["disturbed"] for row in rows(**{"fused-packed": 0.1})}
    assert found["fused-packed"]
    assert not found["fused"]


def test_a_peer_that_was_not_measured_is_no_miss(sections):
    without = [row for row in rows() if not row["contestant"].startswith("torch")]
    text = sections(without)["targets"]
    assert "| time of PyTorch in bfloat16 over ours in medium | ≥ 1.00 | — | — |" in text
    assert "| 3.00 (least 3.00) | yes |" in text


def test_the_page_has_these_sections(sections):
    page = (report_layers.ROOT / "docs/ops/linear.md").read_text(encoding="utf-8")
    filled = fill(page, sections(rows(threads=1), rows(threads=2)), "linear")
    assert "Cells have 1 thread · 2 threads." in filled
    assert (
        fill(filled, report_layers.linear_sections(report_layers.ROOT / "nowhere"), "linear").count(
            "Not measured yet"
        )
        == 2
    )
