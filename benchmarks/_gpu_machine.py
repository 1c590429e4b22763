"""Where the benchmark of GPUs runs: PyTorch's device, this package's library, and the clock.

The CPU, with a library of emulated kernels, is there so that the benchmark can be tried without a GPU: its times say
nothing and are not recorded.
"""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable
from typing import Any


class Machine:
    """A device.

    Args:
        device: "cuda" or "cpu", for PyTorch.
        library: this package's kernels for it.
    """

    def __init__(self, device: str, library: ctypes.CDLL) -> None:
        import torch

        self.torch, self.device, self.library = torch, device, library
        self.is_gpu = device == "cuda"

    @property
    def name(self) -> str:
        """The GPU's name, as its driver has it."""
        return self.torch.cuda.get_device_name() if self.is_gpu else "emulated"

    @property
    def stream(self) -> int | None:
        """PyTorch's current stream, for the library."""
        return self.torch.cuda.current_stream().cuda_stream if self.is_gpu else None

    def call(self, function: str, p: ctypes.Structure) -> None:
        """Call an entry point.

        Raises:
            RuntimeError: it refuses.
        """
        error = getattr(self.library, function)(ctypes.byref(p), self.stream)
        if error is not None:
            raise RuntimeError(error.decode())

    def synchronize(self) -> None:
        """Wait for everything that was queued."""
        if self.is_gpu:
            self.torch.cuda.synchronize()

    def measure(self, run: Callable[[], Any], repeats: int) -> float:
        """Return the seconds of one run: between two events of the GPU around all of them.

        The runs follow each other and use the same arrays: what fits into the L2 cache is there already (warm).
        """
        if not self.is_gpu:
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            return (time.perf_counter() - start) / repeats
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / repeats

    def peak_of(self, run: Callable[[], Any], before: int) -> int:
        """Return the bytes that a run needs beside what was allocated ``before`` the contestant was made."""
        if not self.is_gpu:
            return 0
        run()  # the first one compiles, or takes memory that is given back
        self.synchronize()
        self.torch.cuda.reset_peak_memory_stats()
        kept = run()  # held until the peak is read, as a caller would
        self.synchronize()
        del kept
        return self.torch.cuda.max_memory_allocated() - before

    def allocated(self) -> int:
        """Return the bytes that tensors have now."""
        return self.torch.cuda.memory_allocated() if self.is_gpu else 0

    def state(self) -> dict[str, str]:
        """Return clocks in MHz, driver and versions: of now, so ask while the GPU is warm. Empty what is unknown."""
        columns = ("sm_clock_mhz", "memory_clock_mhz", "driver")
        found = dict.fromkeys(columns, "")
        if self.is_gpu:
            found |= dict(zip(columns, _nvidia_smi(self.torch), strict=True))
        cuda = str(self.torch.version.cuda or "")
        return found | {"torch": self.torch.__version__, "cuda": cuda}


def _nvidia_smi(torch: Any) -> list[str]:
    query = "clocks.sm,clocks.mem,driver_version"
    index = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "-i", index]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ["", "", ""]
    return parse_state(lines)


def parse_state(lines: str) -> list[str]:
    """Return the three columns of nvidia-smi's first line; empty ones if it has another number of them."""
    cells = [cell.strip() for cell in lines.strip().split("\n")[0].split(",")]
    return cells if len(cells) == 3 else ["", "", ""]
