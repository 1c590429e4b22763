"""The benchmark of many processes: run with two on a CPU, as on one machine and as on two, and its report."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cluster.report_scaling import scaling_table

ROOT = Path(__file__).parents[2]
LAUNCH = (sys.executable, "-m", "paddle.distributed.launch")
SMALL = ("--model", "MiniLM-L6", "--batch", "1", "--length", "8", "--steps", "2", "--no-record")
SCRIPT = ("benchmarks/cluster/scaling.py", *SMALL)


def start(command, **options):
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def assert_two_processes(launchers, folder):
    """Wait for the launchers; the row is in the output of one of them, or in its log."""
    outputs = [launcher.communicate(timeout=300)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0] * len(launchers), outputs
    outputs += [path.read_text() for path in folder.rglob("workerlog.*")]
    assert any("2 processes: " in text and "sequences/s" in text for text in outputs), outputs


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_processes_train_together(tmp_path):
    command = [*LAUNCH, "--nproc_per_node", "2", "--log_dir", tmp_path, *SCRIPT]
    assert_two_processes([start(command)], tmp_path)


@pytest.mark.slow
def test_two_launchers_train_together(tmp_path):
    """As on two machines."""
    common = ["--master", f"127.0.0.1:{free_port()}", "--nnodes", "2", "--nproc_per_node", "1"]
    launchers = [start([*LAUNCH, *common, "--log_dir", tmp_path / str(node), *SCRIPT]) for node in range(2)]
    assert_two_processes(launchers, tmp_path)


@pytest.mark.slow
def test_the_slurm_script(tmp_path):
    """With stand-ins for Slurm's commands; it names GPUs as clusters with several kinds do."""
    commands = {
        "srun": 'exec "$@"',
        "scontrol": "echo 127.0.0.1; echo another",
        "python": f'exec {sys.executable} "$@"',
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    script = (ROOT / "benchmarks/cluster/scaling.slurm").read_text()
    assert script.count('--log_dir "scaling-') == 1
    (tmp_path / "job").write_text(script.replace('--log_dir "scaling-', f'--log_dir "{tmp_path}/scaling-'))
    slurm = {"SUBMIT_DIR": str(ROOT), "JOB_NODELIST": "node[1-2]", "JOB_ID": "12345", "NNODES": "1",
             "GPUS_PER_NODE": "a100:2"}  # fmt: skip
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {f"SLURM_{name}": value for name, value in slurm.items()}
    assert_two_processes([start(["bash", str(tmp_path / "job"), *SMALL], env=environment)], tmp_path)


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
