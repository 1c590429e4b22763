"""The CUDA kernels' own library: it loads where there is no GPU, and says so instead of ending the process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # compiles every kernel

ROOT = Path(__file__).parents[2]
SYSTEM = {"c", "m", "dl", "rt", "pthread", "stdc++", "gcc_s", "gomp"}
# Every number and pointer is 1: one row of one head, and what a kernel would fault on, were it ever started.
CALL = """
import ctypes, sys
function = ctypes.CDLL(sys.argv[1])[sys.argv[2]]
function.argtypes, function.restype = [ctypes.c_char_p, ctypes.c_void_p], ctypes.c_char_p
print((function(bytes([1, 0, 0, 0, 0, 0, 0, 0]) * 512, None) or b"").decode())
"""


# Before it would start a kernel, a cache refuses those ones for their packing, float32 for their format.
SAID = "CUDA driver version is insufficient|no CUDA-capable device|a cache is not packed|expected float32"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The sources compiled with nvcc, for one architecture."""
    found = subprocess.run(
        [sys.executable, ROOT / "csrc/build.py", "--find-nvcc"], capture_output=True, check=False
    )
    if found.returncode:
        pytest.skip("no nvcc: the library of the CUDA kernels is not tested")
    folder = tmp_path_factory.mktemp("cuda_library")
    command = [sys.executable, ROOT / "csrc/build.py", "--standalone", "--output-dir", folder]
    env = {**os.environ, "PADDLE_INFRA_CUDA": "1", "PADDLE_INFRA_CUDA_ARCH_LIST": "80"}
    result = subprocess.run(
        [*command, "--build-root", folder / "build"], capture_output=True, text=True, env=env, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "libpaddle_infra_kernels.so"


def entry_points(library: Path) -> list[str]:
    """The CUDA functions that take parameters and a stream."""
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    )
    names = [line.split()[-1] for line in symbols.stdout.splitlines()]
    return [name for name in names if "_cuda" in name and not name.endswith("_workspace")]


def test_it_needs_the_system_s_libraries_only(library):
    dynamic = subprocess.run(["readelf", "-dW", library], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[lib(\S+?)\.so", dynamic))
    assert {"c", "stdc++"} <= needed <= SYSTEM
    missing = subprocess.run(["ldd", "-r", library], capture_output=True, text=True, check=True)
    assert "undefined symbol" not in missing.stdout + missing.stderr
    assert "not found" not in missing.stdout


def test_without_a_gpu_every_entry_point_says_so(library):
    names = entry_points(library)
    assert {"paddle_infra_attention_cuda_fwd", "paddle_infra_linear_cross_entropy_cuda_fwd"} <= set(names)
    for name in names:
        result = subprocess.run(
            [sys.executable, "-c", CALL, library, name],
            capture_output=True,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            check=False,
        )
        assert result.returncode == 0, f"{name}: {result.stderr}"
        assert re.search(SAID, result.stdout), f"{name} says {result.stdout!r}"
