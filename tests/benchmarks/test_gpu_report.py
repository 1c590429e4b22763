"""The report of the benchmark on GPUs, from rows made up here."""

from __future__ import annotations

import csv

import pytest

from benchmarks import report_gpu
from benchmarks._gpu_cases import CASES
from benchmarks._report_rows import read_rows

CASE = {"gpu": "NVIDIA A100", "kernel": "attention, forward", "case": "8 × 2048 × 16 × 64, causal"}
OURS = {**CASE, "contestant": "paddle_infra", "median_ms": 0.5, "q20_ms": 0.49, "q80_ms": 0.52, "ratio_median": 1.0,
        "teraflops": 150.0, "peak_share": 0.48, "gigabytes_per_second": 200.0, "memory_share": 0.1, "peak_mb": 35.0,
        "predicted_ms": 0.45, "bound_by": "tensor cores"}  # fmt: skip
PEERS = [
    {
        **OURS,
        "contestant": "torch-flash",
        "median_ms": 0.4,
        "ratio_median": 0.8,
        "predicted_ms": "",
        "bound_by": "",
    },
    {
        **OURS,
        "contestant": "torch-efficient",
        "median_ms": 0.9,
        "ratio_median": 1.8,
        "predicted_ms": "",
        "bound_by": "",
    },
]
ROW = ("| NVIDIA A100 | attention, forward | 8 × 2048 × 16 × 64, causal | 0.500 (0.490 to 0.520) | "
       "0.450 tensor cores | 150.0 | 48% | 200 | 10% | 35 | 0.80 (torch-flash) |")  # fmt: skip


def test_without_rows_there_are_predictions_that_say_so():
    table = report_gpu.gpu_table([])
    assert table.startswith(report_gpu.MISSING)
    assert "**predictions**" in report_gpu.MISSING
    header = table.splitlines()[2]
    assert header.count("predicted") == len(report_gpu.GPUS)
    kernels = {line.split(" | ")[0].strip("| ") for line in table.splitlines()[4:]}
    assert kernels == {case.kernel for case in CASES}


def test_the_latest_run_counts_beside_the_prediction_and_the_fastest_other():
    gone = {**PEERS[0], "contestant": "flash-attn", "median_ms": 0.1}  # of an earlier run
    table = report_gpu.gpu_table([{**OURS, "median_ms": 9.0}, gone, OURS, *PEERS])
    assert table.splitlines()[-1] == ROW
    assert report_gpu.MISSING not in table


def test_an_unknown_gpu_has_neither_prediction_nor_shares():
    row = {**OURS, "predicted_ms": "", "bound_by": "", "peak_share": "", "memory_share": ""}
    assert "| — | 150.0 | — | 200 | — | 35 | — |" in report_gpu.gpu_table([row])


@pytest.mark.parametrize("has_rows", [False, True])
def test_the_page_is_filled_from_the_file(tmp_path, monkeypatch, has_rows):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- gpu:begin table -->\nold\n<!-- gpu:end table -->\nafter\n")
    monkeypatch.setattr(report_gpu, "PAGE", page)
    monkeypatch.setattr(report_gpu, "read_rows", lambda name: read_rows(name, tmp_path))
    if has_rows:
        with open(tmp_path / "gpu.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(OURS))
            writer.writeheader()
            writer.writerows([OURS, *PEERS])
    report_gpu.main()
    text = page.read_text()
    assert text.startswith("before\n")
    assert "old" not in text
    assert (ROW in text) == has_rows
    assert (report_gpu.MISSING in text) == (not has_rows)
