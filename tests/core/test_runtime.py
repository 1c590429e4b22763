from __future__ import annotations

import json
import os
import platform
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
    settings.pop("malloc keeps freed bytes", None)  # with glibc
    assert settings == {"threads": "3", "FLAGS_use_stride_kernel": "False", "MKL_DEBUG_CPU_TYPE": "5"}
    assert (stride_kernel, mkl) == (False, "5")


def test_tuning_respects_the_user() -> None:
    settings, stride_kernel, mkl = tuned(
        "AuthenticAMD",
        None,
        OMP_NUM_THREADS="2",
        FLAGS_use_stride_kernel="1",
        MKL_DEBUG_CPU_TYPE="4",
        MALLOC_TRIM_THRESHOLD_="131072",
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


FAULTS = """
import resource, sys
import paddle
from paddle_infra import tune_cpu

if sys.argv[1] == "tuned":
    tune_cpu()
x = paddle.ones([6 << 20])  # 24 MB: 6,144 pages
for _ in range(15):  # until there is a free block in the right place
    y = x + x
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    y = x + x
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library: its malloc is left alone")
def test_freed_memory_stays_for_the_next_tensors() -> None:
    variables = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    env = {name: value for name, value in os.environ.items() if name not in variables}
    faults = {}
    for mode in ("plain", "tuned"):
        command = [sys.executable, "-W", "ignore", "-c", FAULTS, mode]
        faults[mode] = int(
            subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()[-1]
        )
    assert faults["tuned"] < 600 < faults["plain"]
