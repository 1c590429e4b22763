"""Where arrays of the tests lie: in a GPU's memory that PyTorch gives, or in that of emulated kernels."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from tests.cuda.emulator import Emulator, aligned_copy

PAUSE_CYCLES = 100_000


class Memory(Protocol):
    """What the device needs of a place for arrays; all take and give bytes."""

    stream: int | None  # that kernels are queued on

    def place(self, content: np.ndarray, guard: int) -> Any:
        """Copy bytes there, of which kernels may not use the first and last ``guard``."""

    def address(self, placed: Any) -> int:
        """Return where they begin."""

    def fetch(self, placed: Any) -> np.ndarray:
        """Return a copy of them, after everything on the stream."""

    def release(self) -> None:
        """Forget everything that was placed."""


class TorchMemory:
    """A GPU's. Kernels run on a stream of its own, which does not wait for others."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._stream = torch.cuda.Stream()
        self.stream = self._stream.cuda_stream
        self._sources: list[Any] = []  # of copies that may not have begun

    def place(self, content: np.ndarray, guard: int) -> Any:
        """The copy is on the same stream, behind a pause: kernels on another stream would come too early."""
        source = self._torch.from_numpy(content).pin_memory()
        self._sources.append(source)
        with self._torch.cuda.stream(self._stream):
            self._torch.cuda._sleep(PAUSE_CYCLES)
            return source.to("cuda", non_blocking=True)

    def address(self, placed: Any) -> int:
        return placed.data_ptr()

    def fetch(self, placed: Any) -> np.ndarray:
        self._stream.synchronize()
        return placed.cpu().numpy()

    def release(self) -> None:
        self._sources.clear()


class EmulatedMemory:
    """Of this process, for kernels in the emulator, which may use what was placed and nothing else."""

    stream = None

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def place(self, content: np.ndarray, guard: int) -> np.ndarray:
        copy = aligned_copy(content)
        self._emulator.announce(copy[guard : len(copy) - guard])
        return copy

    def address(self, placed: np.ndarray) -> int:
        return placed.ctypes.data

    def fetch(self, placed: np.ndarray) -> np.ndarray:
        return placed.copy()

    def release(self) -> None:
        self._emulator.forget()
