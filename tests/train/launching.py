"""Starts the programs of the tests in several processes, with Paddle's launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def launch(
    scenario: str, folder: Path, *, ranks: int = 2, expect_failure: bool = False, timeout_s: float = 240
) -> str:
    """Run ``distributed_program.py`` and return what all its processes have printed."""
    logs = folder / f"logs-{scenario}"
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks)]
    command += [
        "--log_dir",
        str(logs),
        str(ROOT / "tests/train/distributed_program.py"),
        scenario,
        str(folder),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PADDLE_")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOG_minloglevel": "2"}
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    printed = "\n".join(path.read_text(errors="replace") for path in sorted(logs.glob("workerlog.*")))
    assert (done.returncode != 0) == expect_failure, f"exit code {done.returncode}\n{printed[-6000:]}"
    return printed
