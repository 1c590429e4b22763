"""How fast a run is, how long it will take, how much memory it needs."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import paddle

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.callbacks import Callback

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


class Throughput(Callback):
    """Measures speed, time left and peak memory, step by step. Time spent in validation does not count.

    Put it before the loggers and read its attributes there, or pass it to them.

    Args:
        steps: the speed is that of so many last steps.

    Attributes:
        samples_per_s: samples per second, of all processes; None before the second step.
        items_per_s: valid items (tokens) per second, likewise.
        seconds_left: to the end of the run, at this speed; None if the number of steps is not known.
        peak_memory_bytes: largest memory of this process so far (resident set).
        peak_gpu_memory_bytes: largest memory that Paddle has taken on this process's GPU; None on a CPU.
    """

    def __init__(self, *, steps: int = 50) -> None:
        if steps < 1:
            raise InvalidInputError(f"Throughput: steps: expected 1 or more, got {steps}")
        self._marks: deque[tuple[float, int, int, int]] = deque(maxlen=steps + 1)
        self._idle_s = 0.0
        self._evaluation_began = 0.0
        self.samples_per_s: float | None = None
        self.items_per_s: float | None = None
        self.seconds_left: float | None = None
        self.peak_memory_bytes = 0
        self.peak_gpu_memory_bytes: int | None = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Start the clock."""
        self._marks.clear()
        self._idle_s = 0.0
        self.samples_per_s = self.items_per_s = self.seconds_left = None
        self._mark(trainer)

    def on_step_end(self, trainer: Trainer) -> None:
        """Measure."""
        self._mark(trainer)
        first, last = self._marks[0], self._marks[-1]
        seconds = last[0] - first[0]
        if seconds > 0:
            self.samples_per_s, self.items_per_s = (
                (last[2] - first[2]) / seconds,
                (last[3] - first[3]) / seconds,
            )
            if trainer.total_steps is not None and last[1] > first[1]:
                steps_left = trainer.total_steps - trainer.state.step
                self.seconds_left = steps_left * seconds / (last[1] - first[1])
        self.peak_memory_bytes = peak_resident_bytes()
        if paddle.get_device().startswith("gpu"):
            self.peak_gpu_memory_bytes = paddle.device.cuda.max_memory_allocated()

    def on_evaluate_begin(self, trainer: Trainer, batches: int | None) -> None:
        """Stop the clock."""
        self._evaluation_began = time.monotonic()

    def on_evaluate_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Let the clock go on."""
        self._idle_s += time.monotonic() - self._evaluation_began

    def values(self) -> dict[str, float]:
        """Return what is known, by the names of the attributes."""
        found = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {name: value for name, value in found.items() if value is not None}

    def _mark(self, trainer: Trainer) -> None:
        state = trainer.state
        self._marks.append((time.monotonic() - self._idle_s, state.step, state.samples, state.items))


def peak_resident_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts the memory of the process that started this one, too
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
