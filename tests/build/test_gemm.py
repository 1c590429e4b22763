"""Matrix products of csrc/common/gemm.h, each type on every instruction set, and as oneDNN multiplies them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import paddle
import pytest

from tests.ops.fresh_process import INSTRUCTION_SETS

ROOT = Path(__file__).parents[2]
LIBRARIES = Path(paddle.__file__).parent / "libs"
CASES = 300  # of each type


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    """The C++ program, with Paddle's OpenMP: oneDNN's threads are those that gemm.cc must hold back."""
    program = tmp_path_factory.mktemp("gemm") / "driver"
    sources = ["tests/build/gemm_driver.cc", "csrc/common/gemm.cc", "csrc/common/cpu_target.cc"]
    options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-march=x86-64-v2", "-I", "csrc"]
    # Not -fopenmp, which would link the compiler's own runtime: gemm.cc has no parallel regions.
    link = [f"-L{LIBRARIES}", "-l:libiomp5.so", f"-Wl,-rpath,{LIBRARIES}", "-ldl"]
    subprocess.run(["g++", *options, *sources, *link, "-o", program], cwd=ROOT, check=True)
    return program


def drive(driver: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [driver, str(CASES), *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_own_products(driver, isa):
    result = drive(driver, PADDLE_INFRA_ISA=isa)
    if result.returncode == 3:
        pytest.skip(result.stderr)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(CASES), isa]


@pytest.mark.parametrize("threads", ["1", "3"])
def test_products_of_onednn(driver, threads):
    library = LIBRARIES / "libdnnl.so.3"
    if not library.exists():
        pytest.skip(f"{library} is not there: Paddle came without oneDNN")
    result = drive(driver, library, PADDLE_INFRA_ISA="", OMP_NUM_THREADS=threads)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("most", ["SSE41", "AVX2", "AVX512_CORE"])
def test_products_of_onednn_on_older_processors(driver, most):
    library = LIBRARIES / "libdnnl.so.3"
    if not library.exists():
        pytest.skip(f"{library} is not there: Paddle came without oneDNN")
    result = drive(driver, library, PADDLE_INFRA_ISA="", ONEDNN_MAX_CPU_ISA=most)
    assert result.returncode == 0, result.stderr
