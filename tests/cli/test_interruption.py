"""Ctrl-C, kill and a full disk in the middle of training, in real processes."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

COMMAND = [sys.executable, "-W", "ignore", "-m", "paddle_infra.cli.main"]


def train(
    config_file: Path, run: Path, *arguments: str, limit: Callable[[], None] | None = None
) -> subprocess.Popen:
    command = [*COMMAND, "train", str(config_file), "--set", f"run_directory={run}", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )


def wait_for_steps(process: subprocess.Popen, run: Path, steps: int) -> None:
    history, deadline = run / "history.jsonl", time.monotonic() + 120
    while not history.exists() or history.read_bytes().count(b'"train"') < steps:
        assert process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.05)  # not a wait for luck: the loop ends when the steps are there


def debris(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".incomplete-" in path.name]


def test_stopped_runs_go_on_to_the_same_model(config_file: Path, tmp_path: Path) -> None:
    """Ctrl-C saves a checkpoint, SIGKILL leaves an older one: both resume to exactly what an undisturbed run gives."""
    settings = ["--set", "training.epochs=4", "--set", "training.checkpoint_every_steps=5"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    undisturbed = train(config_file, straight, *settings)

    process = train(config_file, stopped, *settings)
    wait_for_steps(process, stopped, 8)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "interrupted" in error
    assert "checkpoint" in error
    assert debris(stopped) == []
    assert not (stopped / "model").exists()

    process = train(config_file, stopped, *settings, "--resume")
    wait_for_steps(process, stopped, 30)
    process.kill()
    process.communicate(timeout=60)
    resumed = train(config_file, stopped, *settings, "--resume")
    _, error = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, error
    _, error = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0, error
    one, other = (load_file(run / "model/model.safetensors") for run in (straight, stopped))
    assert one.keys() == other.keys()
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the size of files can be limited on Linux only"
)
def test_full_disk(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # the weights take 2 MB

    process = train(config_file, run, limit=limit)
    _, error = process.communicate(timeout=120)
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert process.returncode == 1, error
    assert len(lines) == 1, error
    assert "cannot write" in lines[0]
    assert "File too large" in lines[0]
    assert debris(run) == []
    assert not (run / "model").exists()
