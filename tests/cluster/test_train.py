"""The training script of the templates, in two processes: it begins, and goes on when started again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_infra.train import read_history

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["parallel", "sharding"])
def test_it_goes_on_where_it_was(tmp_path: Path, minilm_dir: Path, trec_file: Path, strategy: str) -> None:
    assert minilm_dir.is_dir()
    assert trec_file.is_file()
    for steps in (2, 4):
        command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
        command += [
            "--log_dir",
            str(tmp_path / "logs"),
            "examples/cluster/train.py",
            "--output",
            str(tmp_path),
        ]
        command += [
            "--max-steps",
            str(steps),
            "--batch-size",
            "4",
            "--every-steps",
            "2",
            "--strategy",
            strategy,
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        logs = "".join(path.read_text() for path in sorted((tmp_path / "logs").glob("workerlog.*")))
        assert done.returncode == 0, logs[-4000:]
        assert f"finished after step {steps}" in logs
    assert "resuming after step 2" in logs
    records = [record for record in read_history(tmp_path / "history.jsonl") if record["kind"] == "train"]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
