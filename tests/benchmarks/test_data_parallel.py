"""The benchmark of one process against two runs, with every strategy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_prints_the_speed_up() -> None:
    options = ["--no-record", "--batch", "2", "--length", "8", "--steps", "2", "--rounds", "1"]
    command = [sys.executable, "benchmarks/bench_data_parallel.py", *options]
    printed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=True
    ).stdout
    assert re.search(r"^1 processes \(none\): [\d.]+ ms per step, 1.00 times", printed, re.MULTILINE)
    for strategy in ("parallel", "overlap", "sharding"):
        assert re.search(
            rf"^2 processes \({strategy}\): [\d.]+ ms per step, [\d.]+ times", printed, re.MULTILINE
        )
