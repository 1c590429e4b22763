"""The CUDA library on a GPU, through ctypes with PyTorch's memory: Paddle computes what is expected, on the CPU.

The checks are those that the emulated kernels pass in tests/cuda. ``make test-gpu`` builds the library and runs them.
Every test is here twice: ``[gpu]``, skipped where there is none, and ``[emulated]``, which takes the same way through
copies, guards and pointers to the emulated kernels, so that it is known to work before there is a GPU.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import paddle
import pytest

from tests.cuda.attention_emulated import EmulatedAttention
from tests.cuda.emulated_library import emulated_kernels
from tests.cuda.linear_cross_entropy_emulated import EmulatedHead
from tests.cuda.linear_topk_emulated import EmulatedTopk
from tests.gpu.device import Device
from tests.gpu.memory import EmulatedMemory, TorchMemory

LIBRARY = Path(os.environ.get("PADDLE_INFRA_CUDA_LIBRARY") or
               Path(__file__).parents[2] / "build/cuda/libpaddle_infra_kernels.so")  # fmt: skip


def _missing() -> str | None:
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed: it gives the GPU's memory to these tests"
    if not torch.cuda.is_available():
        return "there is no GPU that PyTorch can use"
    return None if LIBRARY.is_file() else f"{LIBRARY}: run `make cuda`, or set PADDLE_INFRA_CUDA_LIBRARY"


@functools.cache
def _gpu() -> Device:
    return Device(ctypes.CDLL(str(LIBRARY)), TorchMemory())


def emulated_device() -> Device:
    """Return what stands for a GPU."""
    return Device(emulated_kernels().library, EmulatedMemory(emulated_kernels()))


def device_of(kind: str) -> Device:
    """Return the GPU, or what stands for it; skips the test if there is no GPU."""
    if kind == "gpu" and (reason := _missing()):
        pytest.skip(reason)
    return _gpu() if kind == "gpu" else emulated_device()


@pytest.fixture(autouse=True, scope="session")
def _expected_results_come_from_the_cpu():
    """Of a Paddle for GPUs, too."""
    paddle.set_device("cpu")


@pytest.fixture(scope="module", params=["gpu", pytest.param("emulated", marks=pytest.mark.slow)])
def device(request):
    """Where kernels run. The emulated ones are slow: tests/cuda runs them already."""
    return device_of(request.param)


@pytest.fixture(scope="module")
def attention(device):
    """Attention's kernels, as tests/cuda calls them; those of float32 and to a cache use its ``emulator``."""
    return EmulatedAttention(device)


@pytest.fixture(scope="module")
def head(device):
    """The kernels of linear_cross_entropy."""
    return EmulatedHead(device)


@pytest.fixture(scope="module")
def topk(device):
    """The kernels of linear_topk."""
    return EmulatedTopk(device)
