"""The arithmetic peak of this machine right now: compiles ``peak_flops.cc`` and runs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks._harness import ROOT

SOURCE = ROOT / "benchmarks/peak_flops.cc"
TOLERANCE = 0.15  # two peaks that differ more were measured on a machine that was not left alone


def build_peak_program(folder: Path = ROOT / "build/benchmarks") -> Path:
    """Compile the program for this machine, if it is older than its source, and return its path.

    Raises:
        RuntimeError: the compiler failed; the message is what it wrote.
    """
    program = folder / "peak_flops"
    if program.exists() and program.stat().st_mtime > SOURCE.stat().st_mtime:
        return program
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["-O2", "-std=c++17", "-march=native", "-pthread"]
    command = [os.environ.get("CXX", "g++"), *flags, str(SOURCE), "-o", str(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return program


def measure_peak(program: str | Path, threads: int) -> dict[str, float]:
    """Return GFLOP/s of that many threads together, in ``float32`` and, if there are instructions, ``bfloat16``."""
    output = subprocess.run([str(program), str(threads)], capture_output=True, text=True, check=True).stdout
    return {name: found["gflops"] for name, found in json.loads(output).items()}


def peak_instructions(program: str | Path) -> dict[str, str]:
    """Return the instruction sets that the peaks are of: what a fraction of a peak is a fraction of."""
    output = subprocess.run([str(program), "1", "1"], capture_output=True, text=True, check=True).stdout
    found: dict[str, dict[str, Any]] = json.loads(output)
    return {name: peak["isa"] for name, peak in found.items()}


def is_disturbed(before: dict[str, float], after: dict[str, float]) -> bool:
    """Whether any peak before and after a measurement differ by more than :data:`TOLERANCE`."""
    return any(abs(after[name] / before[name] - 1) > TOLERANCE for name in before)
