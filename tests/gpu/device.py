"""Runs the cases of tests/cuda on a GPU: the same parameters, with arrays in the GPU's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tests.gpu.memory import Memory

GUARD = 1024  # bytes around every array, which kernels must not touch; they keep the alignment of allocations


class NotCounted(dict):
    """Counters of a GPU: a test that reads one has passed until there, and is skipped."""

    def __missing__(self, name: str) -> int:
        pytest.skip("a GPU does not count what kernels do: compared values only")


class Device:
    """In the place of the emulator in the classes of tests/cuda.

    A GPU runs threads in what order it likes, and counts nothing.
    """

    def __init__(self, library: ctypes.CDLL, memory: Memory) -> None:
        self.library = library
        self.memory = memory

    def configure(self, seed: int = 0, threads: int = 2) -> None:
        """Do nothing."""

    def take_counters(self) -> dict[str, int]:
        """Return what skips the test that looks at it."""
        return NotCounted()

    def launch(
        self, function: Callable[..., Any], p: ctypes.Structure, arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Call an entry point with everything on the device, and copy the results back.

        Args:
            function: takes the parameters and a stream; returns null or what is wrong.
            p: the parameters; their pointers are changed to those of the device.
            arrays: what they point to, by the names of the fields.

        Raises:
            AssertionError: the entry point refused, or something was written before or behind an array.
        """
        guard = np.full(GUARD, 0xFF, "uint8")
        placed = {}
        for field, array in arrays.items():
            assert array.flags.c_contiguous, f"{field}: a copy could not be written back"
            content = np.concatenate([guard, array.reshape(-1).view("uint8"), guard])
            placed[field] = self.memory.place(content, GUARD)
            assert field in dict(p._fields_), f"{field}: no field of {type(p).__name__}"
            setattr(p, field, self.memory.address(placed[field]) + GUARD)
        error = function(ctypes.byref(p), self.memory.stream)
        contents = {field: self.memory.fetch(each) for field, each in placed.items()}
        self.memory.release()
        assert error is None, error
        for field, array in arrays.items():
            content = contents[field]
            for side in (content[:GUARD], content[len(content) - GUARD :]):
                assert (side == 0xFF).all(), f"{field}: written outside of the array"
            array.reshape(-1).view("uint8")[:] = content[GUARD : len(content) - GUARD]
