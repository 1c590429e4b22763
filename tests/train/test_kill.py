"""A run that is killed again and again, at random times, ends bit for bit like one that never was.

Each chain is one run of two epochs that SIGKILL ends four times: twice from outside, some milliseconds after a random
step (in a step, in a validation, while a file is written, as it comes), and twice from inside at a random file that a
checkpoint brings to the disk, so that the checkpoint is certainly half written. Five chains make 20 points.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_infra.train import checkpoints_in, read_history, verify_checkpoint
from tests.train.kill_case import STEPS
from tests.train.problem import assert_same_bits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds a checkpoint's files in /proc")

ROOT = Path(__file__).parents[2]
KILLS = 4


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "tests.train.kill_case", str(directory), *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def logged(directory: Path) -> list[dict[str, Any]]:
    """The history without the times."""
    records = read_history(directory / "history.jsonl")
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference has no workers and writes its checkpoints in the foreground."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    with start(directory, "--workers", "0") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return directory


def kill_from_outside(process: subprocess.Popen[str], step: int, delay_s: float) -> None:
    assert process.stdout is not None
    assert any(line == f"step {step}\n" for line in process.stdout)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait(30)


@pytest.mark.parametrize("chain", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 5))])
def test_killed_again_and_again(uninterrupted: Path, tmp_path: Path, chain: int) -> None:
    points = random.Random(chain)
    common = ["--asynchronous"] if chain % 2 else []
    kinds = ["outside", "writing"] * (KILLS // 2)
    points.shuffle(kinds)
    half_written = 0
    for number, kind in enumerate(kinds):
        # Each kill lies in its own part of the run, so that every resumed process comes some steps further.
        step = 2 + number * (STEPS - 4) // KILLS + points.randrange((STEPS - 4) // KILLS - 1)
        resume = ["--resume", "latest"] if checkpoints_in(tmp_path / "checkpoints") else []
        if kind == "outside":
            with start(tmp_path, *common, *resume) as process:
                kill_from_outside(process, step, points.uniform(0, 0.03))
        else:
            file = points.randint(1, 5)  # of the five that a checkpoint has
            with start(tmp_path, *common, *resume, "--kill", str(step), str(file)) as process:
                _, err = process.communicate(timeout=120)
            half_written += bool(list((tmp_path / "checkpoints").glob(".incomplete-step-*")))
        assert process.returncode == -signal.SIGKILL
    assert half_written == kinds.count("writing")
    with start(tmp_path, *common, "--resume", "latest") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "step 1\n" not in out  # it did not start anew
    assert_same_bits(dict(np.load(uninterrupted / "final.npz")), dict(np.load(tmp_path / "final.npz")))
    assert logged(tmp_path) == logged(uninterrupted)
    assert [record["step"] for record in logged(tmp_path) if record["kind"] == "train"] == list(
        range(1, STEPS + 1)
    )
    left, right = (
        [path.name for path in checkpoints_in(directory / "checkpoints")]
        for directory in (uninterrupted, tmp_path)
    )
    assert left == right
    best = [
        json.loads((directory / "checkpoints/best.json").read_text())
        for directory in (uninterrupted, tmp_path)
    ]
    assert best[0] == best[1]
    assert len(best[0]["ranking"]) == 2
    for path in checkpoints_in(tmp_path / "checkpoints"):
        verify_checkpoint(path)
    assert not list(tmp_path.rglob(".incomplete-*"))
