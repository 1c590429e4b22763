"""Run a module of this package in a fresh process; every way it can end is an answer or one clear error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import paddle_infra
from paddle_infra._core.errors import ExportError

REQUEST, RESULT, PROGRESS = "request.json", "result.json", "progress"
_OUTPUT_SHOWN = 4000


def inputs_file(folder: Path, index: int) -> Path:
    """Where the parent leaves the inputs of a case."""
    return folder / f"inputs-{index}.npz"


def outputs_file(folder: Path, index: int) -> Path:
    """Where the worker leaves the outputs of a case."""
    return folder / f"outputs-{index}.npz"


def run_fresh(
    module: str, request: dict[str, Any], folder: Path, *, timeout_s: float, threads: int = 1
) -> Any:
    """Run ``python -m module folder`` with ``request`` in ``folder``; return the result that it leaves there.

    Args:
        module: a module whose ``main`` reads ``request.json`` and writes ``result.json``.
        request: plain JSON values.
        folder: an existing folder for the exchange.
        timeout_s: seconds until the process is killed.
        threads: for the numeric libraries of the process.

    Raises:
        ExportError: the process timed out, was killed, failed, or left no result; the message holds what it
            was doing and the end of what it printed.
    """
    (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
    command = [sys.executable, "-m", module, str(folder)]
    try:
        process = subprocess.run(
            command, env=_environment(threads), capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        printed = (error.stdout or b"") + (error.stderr or b"")
        raise ExportError(
            f"{module} did not end within {timeout_s:g} s{_doing(folder)}{_tail(printed)}"
        ) from error
    printed = process.stdout + process.stderr
    result = folder / RESULT
    if process.returncode != 0 or not result.is_file():
        raise ExportError(f"{module} {_ending(process.returncode)}{_doing(folder)}{_tail(printed)}")
    return json.loads(result.read_text(encoding="utf-8"))


def _environment(threads: int) -> dict[str, str]:
    """Quiet, offline, and able to import this very package wherever it lies."""
    root = str(Path(paddle_infra.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "GLOG_minloglevel": "2",
        "OMP_NUM_THREADS": str(threads),
        "PIP_NO_INDEX": "1",
        "POLYGRAPHY_AUTOINSTALL_DEPS": "0",
    }


def _ending(code: int) -> str:
    if code < 0:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return "ended without a result" if code == 0 else f"failed with exit code {code}"


def _doing(folder: Path) -> str:
    progress = folder / PROGRESS
    return f" while {progress.read_text(encoding='utf-8')}" if progress.is_file() else ""


def _tail(printed: bytes) -> str:
    text = printed.decode("utf-8", errors="replace").strip()
    return f"; the end of its output:\n{text[-_OUTPUT_SHOWN:]}" if text else "; it printed nothing"
