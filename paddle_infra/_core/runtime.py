"""What this CPU can do, and the settings with which Paddle runs well on it.

Paddle's defaults leave much of a CPU unused: one thread; a stride kernel that copies views; a matrix library that
runs processors of other makers than its own through a slow path (2.2 to 2.9 times slower, measured in
``docs/install.md``); and memory of tensors that goes back to the system and comes again, page by page, in every step.
:func:`tune_cpu` mends all of them in the running process. Importing the package changes nothing:
programs call it; the command line always does, and ``train`` and ``demo`` print the settings.
"""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from paddle_infra._core.errors import InvalidInputError

# The features that decide which kernels can run, in the words of /proc/cpuinfo.
_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")
_MKL_VARIABLE = "MKL_DEBUG_CPU_TYPE"
_MKL_AVX2 = "5"

# Of glibc's malloc.h; and what its variables are called in the environment.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
_KEPT_BYTES = 1 << 30


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
    if not any(name in os.environ for name in _MALLOC_VARIABLES) and _keep_freed_memory():
        settings["malloc keeps freed bytes"] = str(_KEPT_BYTES)
    return settings


def _keep_freed_memory() -> bool:
    """Let malloc keep up to 1 GiB for the next tensors instead of giving each block back; False without glibc.

    A fresh page costs about as much as 2,000 multiplications: where tensors are large, half of a step can go there.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    # Older versions take no more than 32 MiB for the first; larger blocks still go back there.
    has_threshold = mallopt(_MMAP_THRESHOLD, _KEPT_BYTES) == 1 or mallopt(_MMAP_THRESHOLD, 32 << 20) == 1
    return has_threshold and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES) == 1


def _initial_environment() -> dict[str, str]:
    """Return the environment that the process was started with: Paddle's import sets OMP_NUM_THREADS to 1 later."""
    try:
        raw = Path("/proc/self/environ").read_bytes()
    except OSError:  # not Linux
        return dict(os.environ)
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
