from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra._core.runtime import CpuInfo, available_cores, cpu_info, tune_cpu

SCRIPT = """
import json, os, paddle
from paddle_infra._core import runtime
runtime.cpu_info = lambda: runtime.CpuInfo({vendor!r}, "x", 4, ("avx2",))
settings = runtime.tune_cpu({threads})
flag = paddle.get_flags(["FLAGS_use_stride_kernel"])["FLAGS_use_stride_kernel"]
print(json.dumps([settings, flag, os.environ.get("MKL_DEBUG_CPU_TYPE")]))
"""


def tuned(vendor: str, threads: int | None, **environment: str) -> tuple[dict[str, str], bool, str | None]:
    """Settings, Paddle's flag and the matrix library's variable, in a fresh process."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_NUM_THREADS", "FLAGS_use_stride_kernel", "MKL_DEBUG_CPU_TYPE")
    }
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT.format(vendor=vendor, threads=threads)]
    result = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True)
    return tuple(json.loads(result.stdout.splitlines()[-1]))  # type: ignore[return-value]


def test_cpu_info_names_this_cpu() -> None:
    info = cpu_info()
    assert isinstance(info, CpuInfo)
    assert info.model
    assert 1 <= info.cores == available_cores() <= (os.cpu_count() or 1)


def test_tuning_sets_threads_flag_and_library() -> None:
    settings, stride_kernel, mkl = tuned("AuthenticAMD", 3)
    assert settings == {"threads": "3", "FLAGS_use_stride_kernel": "False", "MKL_DEBUG_CPU_TYPE": "5"}
    assert (stride_kernel, mkl) == (False, "5")


def test_tuning_respects_the_user() -> None:
    settings, stride_kernel, mkl = tuned(
        "AuthenticAMD", None, OMP_NUM_THREADS="2", FLAGS_use_stride_kernel="1", MKL_DEBUG_CPU_TYPE="4"
    )
    assert settings == {"threads": "2"}
    assert (stride_kernel, mkl) == (True, "4")


def test_the_library_of_an_intel_cpu_is_left_alone() -> None:
    settings, _, mkl = tuned("GenuineIntel", None)
    assert settings["threads"] == str(available_cores())
    assert mkl is None


def test_threads_must_be_positive() -> None:
    with pytest.raises(InvalidInputError, match="threads must be at least 1, got 0"):
        tune_cpu(0)
