"""common/gemm: our own matrix products, with every instruction set. oneDNN's are tested through the operators."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    program = tmp_path_factory.mktemp("gemm") / "driver"
    sources = ["tests/build/gemm_driver.cc", "csrc/common/gemm.cc", "csrc/common/cpu_target.cc"]
    flags = ["-std=c++17", "-O2", "-ffp-contract=fast", "-fopenmp", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "csrc"]
    subprocess.run(["g++", *flags, *(ROOT / source for source in sources), "-ldl", "-o", program], check=True)
    return program


@pytest.mark.parametrize("isa", ["", "portable", "avx2", "avx512"])
def test_products_of_random_shapes(driver, isa):
    env = {**os.environ, "PADDLE_INFRA_ISA": isa}
    result = subprocess.run([driver], capture_output=True, text=True, env=env, check=True)
    worst, wrong = result.stdout.split()
    assert float(worst) < 1e-5  # numbers are up to 2: a few units in the last place of their products
    assert int(wrong) == 0
