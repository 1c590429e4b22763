"""The CUDA library on a GPU, through ctypes with PyTorch's memory: no Paddle is needed.

The checks are those that the emulated kernels pass in tests/cuda. ``make test-gpu`` builds the library and runs them.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from tests.gpu.device import GpuAttention

LIBRARY = Path(__file__).parents[2] / "build/cuda/libpaddle_infra_kernels.so"


def _missing() -> str | None:
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed: it gives the GPU's memory to these tests"
    if not torch.cuda.is_available():
        return "there is no GPU that PyTorch can use"
    path = Path(os.environ.get("PADDLE_INFRA_CUDA_LIBRARY", LIBRARY))
    return (
        None if path.is_file() else f"{path} is not there: run `make cuda`, or set PADDLE_INFRA_CUDA_LIBRARY"
    )


@pytest.fixture(scope="session")
def cuda_library():
    """The library that ``make cuda`` has built."""
    if reason := _missing():
        pytest.skip(reason)
    return ctypes.CDLL(os.environ.get("PADDLE_INFRA_CUDA_LIBRARY", str(LIBRARY)))


@pytest.fixture(scope="session")
def attention(cuda_library):
    """Attention's kernels on the GPU, as tests/cuda calls them."""
    return GpuAttention(cuda_library)
