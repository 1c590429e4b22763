"""Emulated kernels under sanitizers: data races between threads of a block, accesses outside of arrays, C++'s traps."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cuda.emulator import CSRC, build

#: What a sanitizer is asked for, and how the program then runs: ThreadSanitizer needs addresses that are not random.
SANITIZERS = {
    "thread": (("-fsanitize=thread",), ("setarch", "-R")),
    "address": (("-fsanitize=address,undefined", "-fno-sanitize-recover=all"), ()),
}
CASES = 30


def build_driver(name: str, operator: str, sanitizer: str, folder: Path, csrc: Path = CSRC) -> list[str]:
    """Compile ``<name>.cc`` of this folder with an operator's emulated kernels; return the command that runs it."""
    flags, prefix = SANITIZERS[sanitizer]
    driver = Path(__file__).with_name(f"{name}.cc")
    options = ("-x", "c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{csrc}", str(driver))
    program = build(
        [operator], folder, csrc=csrc, flags=("-O1", "-g", *flags), link=options, stub_missing=csrc != CSRC
    )
    return [*prefix, str(program)]


def run(command: list[str], first: int, count: int, *more: str) -> subprocess.CompletedProcess[str]:
    options = {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1", "ASAN_OPTIONS": "detect_leaks=1"}
    return subprocess.run(
        [*command, str(first), str(count), *more],
        capture_output=True,
        text=True,
        env={**os.environ, **options},
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_attention_is_clean(tmp_path, sanitizer):
    if sanitizer == "thread" and not shutil.which("setarch"):
        pytest.skip("no setarch (package util-linux): ThreadSanitizer may not find its addresses")
    result = run(build_driver("attention_driver", "attention", sanitizer, tmp_path), 0, CASES)
    assert result.returncode == 0, result.stdout + result.stderr[-5000:]
    assert result.stdout == f"{CASES} cases\n"
