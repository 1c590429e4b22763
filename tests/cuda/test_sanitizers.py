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
#: Of each pass and group of formats; backward also runs forward, and takes longest.
CASES = {"forward": 30, "backward": 12, "decode": 30}


HEAD_CASES = 24


def build_driver(name: str, operator: str, sanitizer: str, folder: Path, csrc: Path = CSRC) -> list[str]:
    """Compile ``<name>.cc`` of this folder with an operator's emulated kernels; return the command that runs it."""
    sanitize, prefix = SANITIZERS[sanitizer]
    is_part = csrc != CSRC
    flags = ("-O1", "-g", *sanitize)
    if is_part:
        flags += ("-Wno-error",)  # a planted bug may leave names unused
    source, driver = Path(__file__).with_name(f"{name}.cc"), folder / f"{name}.o"
    folder.mkdir(parents=True, exist_ok=True)
    options = ("-std=c++17", "-Wall", "-Wextra", "-Werror", *flags, f"-I{csrc}")
    subprocess.run(["g++", *options, "-c", source, "-o", driver], check=True)
    program = build([operator], folder, csrc=csrc, flags=flags, link=(), more=[driver], stub_missing=is_part)
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


@pytest.fixture(scope="module", params=SANITIZERS)
def attention_driver(request, tmp_path_factory):
    """Attention's kernels, all of them, with their driver."""
    if request.param == "thread" and not shutil.which("setarch"):
        pytest.skip("no setarch (package util-linux): ThreadSanitizer may not find its addresses")
    folder = tmp_path_factory.mktemp(f"attention_{request.param}")
    return build_driver("attention_driver", "attention", request.param, folder)


@pytest.mark.slow
@pytest.mark.parametrize("formats", ["float32", "float16,bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_attention_is_clean(attention_driver, name, formats):
    result = run(attention_driver, 0, CASES[name], name, "256", formats)
    assert result.returncode == 0, result.stdout + result.stderr[-5000:]
    assert result.stdout == f"{CASES[name]} cases\n"


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("operator", ["linear_cross_entropy", "linear_topk"])
def test_heads_are_clean(tmp_path, operator, sanitizer):
    if sanitizer == "thread" and not shutil.which("setarch"):
        pytest.skip("no setarch (package util-linux): ThreadSanitizer may not find its addresses")
    result = run(build_driver(f"{operator}_driver", operator, sanitizer, tmp_path), 0, HEAD_CASES)
    assert result.returncode == 0, result.stdout + result.stderr[-5000:]
    assert result.stdout == f"{HEAD_CASES} cases\n"
