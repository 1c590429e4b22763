"""What this CPU can do, and the settings with which Paddle runs well on it.

Paddle's defaults leave much of a CPU unused: one thread; a stride kernel that copies views; and a matrix library that
runs processors of other makers than its own through a slow path (2.2 to 2.9 times slower, measured in
``docs/install.md``). :func:`tune_cpu` mends all three in the running process. Importing the package changes nothing:
programs call it; the command line always does, and ``train`` and ``demo`` print the settings.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from paddle_infra._core.errors import InvalidInputError

# The features that decide which kernels can run, in the words of /proc/cpuinfo.
_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")
_MKL_VARIABLE = "MKL_DEBUG_CPU_TYPE"
_MKL_AVX2 = "5"


@dataclass(frozen=True)
class CpuInfo:
    """The processor as this process sees it."""

    vendor: str
    model: str
    cores: int  # those that this process may use
    features: tuple[str, ...]


def cpu_info() -> CpuInfo:
    """Read the processor's name, the cores this process may use, and the vector features that kernels ask for."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:  # not Linux
        pass
    flags = set(fields.get("flags", "").split())
    return CpuInfo(
        vendor=fields.get("vendor_id", "unknown"),
        model=fields.get("model name", platform.processor() or platform.machine()),
        cores=available_cores(),
        features=tuple(name for name in _FEATURES if name in flags),
    )


def available_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def tune_cpu(threads: int | None = None) -> dict[str, str]:
    """Make Paddle use this CPU well, in this process; call it before the first computation.

    Args:
        threads: number of threads, at least 1; None keeps ``OMP_NUM_THREADS`` if it is set, else takes all cores.

    Returns:
        The settings made, by name, for logs. A variable that the user has set is left alone.

    Raises:
        InvalidInputError: threads is below 1.
    """
    import paddle

    if threads is not None and threads < 1:
        raise InvalidInputError(f"threads must be at least 1, got {threads}")
    settings = {}
    if threads is None:
        asked = _initial_environment().get("OMP_NUM_THREADS", "")
        threads = int(asked) if asked.isdigit() and int(asked) > 0 else available_cores()
    paddle.base.core.set_num_threads(threads)
    settings["threads"] = str(threads)
    if "FLAGS_use_stride_kernel" not in os.environ:
        paddle.set_flags({"FLAGS_use_stride_kernel": False})
        settings["FLAGS_use_stride_kernel"] = "False"
    cpu = cpu_info()
    if (
        cpu.vendor in ("AuthenticAMD", "HygonGenuine")
        and "avx2" in cpu.features
        and _MKL_VARIABLE not in os.environ
    ):
        os.environ[_MKL_VARIABLE] = _MKL_AVX2  # read by the matrix library at its first call
        settings[_MKL_VARIABLE] = _MKL_AVX2
    return settings


def _initial_environment() -> dict[str, str]:
    """Return the environment that the process was started with: Paddle's import sets OMP_NUM_THREADS to 1 later."""
    try:
        raw = Path("/proc/self/environ").read_bytes()
    except OSError:  # not Linux
        return dict(os.environ)
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
