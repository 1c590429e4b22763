"""The benchmark of many processes: run with two on a CPU, and its report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.cluster.report_scaling import scaling_table

ROOT = Path(__file__).parents[2]


def test_two_processes_train_together(tmp_path):
    launch = [
        sys.executable,
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        "2",
        "--log_dir",
        tmp_path,
    ]
    script = ["benchmarks/cluster/scaling.py", "--batch", "1", "--length", "8", "--steps", "2", "--no-record"]
    result = subprocess.run(
        [*launch, *script], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    logs = "".join(path.read_text() for path in tmp_path.glob("workerlog.*"))
    assert "2 processes: " in logs + result.stdout
    assert "sequences/s" in logs + result.stdout


def test_the_report_relates_to_one_process():
    common = {"model": "BERT-base", "batch": 32.0, "length": 128.0, "place": "gpu"}
    rows = [
        {**common, "processes": 1.0, "sequences_per_second": 50.0},
        {**common, "processes": 8.0, "sequences_per_second": 300.0},
        {**common, "processes": 8.0, "sequences_per_second": 360.0},  # the latest counts
        {**common, "place": "cpu", "processes": 2.0, "sequences_per_second": 3.0},
    ]
    table = scaling_table(rows)
    assert "| BERT-base, 32 × 128 per process, gpu | 8 | 360.0 | 90% |" in table
    assert "| BERT-base, 32 × 128 per process, cpu | 2 | 3.0 | — |" in table
