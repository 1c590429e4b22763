"""Runs the cases of tests/cuda on a GPU: the same parameters, with arrays in the GPU's memory."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from tests.cuda.attention_emulated import EmulatedAttention


class OnDevice:
    """Copies of numpy arrays in the GPU's memory, between guards that kernels must not touch."""

    GUARD = 1024  # bytes, which keep the alignment of allocations

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        import torch

        self.arrays = arrays
        self.memory: dict[str, Any] = {}
        for name, array in arrays.items():
            guard = np.full(self.GUARD, 0xFF, "uint8")
            content = np.concatenate([guard, np.ascontiguousarray(array).view("uint8").ravel(), guard])
            self.memory[name] = torch.from_numpy(content).cuda()

    def pointer(self, name: str) -> int:
        """Return the address on the GPU."""
        return self.memory[name].data_ptr() + self.GUARD

    def read_back(self) -> None:
        """Wait for the GPU, and copy everything into the numpy arrays.

        Raises:
            AssertionError: something was written before or behind an array.
        """
        import torch

        torch.cuda.synchronize()
        for name, array in self.arrays.items():
            content = self.memory[name].cpu().numpy()
            for guard in (content[: self.GUARD], content[len(content) - self.GUARD :]):
                assert (guard == 0xFF).all(), f"{name}: written outside of the array"
            array.view("uint8").ravel()[:] = content[self.GUARD : len(content) - self.GUARD]


class _NoEmulator:
    """In the place of the emulator: a GPU runs threads in what order it likes, and counts nothing."""

    def configure(self, seed: int = 0, threads: int = 2) -> None:
        """Do nothing."""

    def take_counters(self) -> dict[str, int]:
        """Return nothing."""
        return {}


class GpuAttention(EmulatedAttention):
    """As the emulated kernels, on the GPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.emulator = _NoEmulator()
        self.declare(library)

    def call(self, name: str, p: Any, arrays: dict[str, np.ndarray]) -> None:
        """Call an entry point with everything on the GPU, and copy the results back."""
        device = OnDevice(arrays)
        for field in arrays:
            setattr(p, field, device.pointer(field))
        error = getattr(self.library, f"paddle_infra_attention_cuda_{name}")(ctypes.byref(p), None)
        assert error is None, error
        device.read_back()
