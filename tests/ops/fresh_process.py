"""Running code in a fresh process, also with another instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: In rising order; the last one runs everywhere (csrc/common/cpu_target.h).
INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512_bf16", "amx", "emulate_amx")


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def python(code: str, *arguments: str, **environment: str) -> str:
    """Run code in a fresh process and return what it prints."""
    result = run(code, *arguments, **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def python_with_isa(isa: str, code: str, *arguments: str) -> str:
    """The same with an instruction set; the test is skipped if this machine does not have it."""
    result = run(code, *arguments, PADDLE_INFRA_ISA=isa)
    if f"this processor or its operating system has no {isa}," in result.stderr:
        pytest.skip(f"this processor or its operating system has no {isa}")
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
