"""The report of the benchmark on GPUs, from rows made up here."""

from __future__ import annotations

from benchmarks import report_gpu


def test_without_rows_it_says_so():
    assert report_gpu.gpu_table([]) == report_gpu.MISSING


def test_the_latest_rows_count_beside_the_prediction_and_the_fastest_other():
    case = {
        "gpu": "NVIDIA A100",
        "batch": 8.0,
        "length": 2048.0,
        "heads": 16.0,
        "head_dim": 64.0,
        "is_causal": True,
    }
    ours = {**case, "contestant": "paddle_infra", "median_ms": 0.5, "predicted_ms": 0.45, "teraflops": 150.0}
    peers = [
        {**case, "contestant": "torch-flash", "median_ms": 0.4, "ratio_median": 0.8},
        {**case, "contestant": "torch-efficient", "median_ms": 0.9, "ratio_median": 1.8},
    ]
    table = report_gpu.gpu_table([{**ours, "median_ms": 9.0}, ours, *peers])
    row = "| NVIDIA A100 | 8 × 2048 × 16 × 64, causal | 0.500 | 0.450 | 150 | 0.80 (torch-flash) |"
    assert row in table.splitlines()
