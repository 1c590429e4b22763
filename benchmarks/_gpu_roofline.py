"""What a kernel should take on a GPU, computed beforehand from its work and from what each unit does per cycle.

A kernel cannot be faster than its busiest unit. The prediction is that bound, with the share of a last, partly filled
wave of blocks and of instructions that are nobody's work (``OVERHEAD``), and the time of each launch. It is to be
compared with measurement, and corrected where that shows it wrong: no GPU has run the kernels yet.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from benchmarks._gpu_cases import Case
from benchmarks._gpu_peaks import Gpu
from benchmarks._gpu_work import Work, work_of

OVERHEAD = 1.15
LAUNCH_SECONDS = 4e-6
SHARED_UNITS = ("L2 cache", "memory")  # as busy if some multiprocessors have nothing to do


def unit_seconds(work: Work, gpu: Gpu) -> dict[str, float]:
    """Seconds that each unit is busy, if all multiprocessors have the same to do."""
    cycles = gpu.gigahertz * 1e9
    everywhere = gpu.multiprocessors * cycles
    return {
        "tensor cores": work.multiply_adds / gpu.multiply_adds / everywhere,
        "exponentials": work.exponentials / gpu.exponentials / everywhere,
        "float operations": work.float_operations / gpu.float_operations / everywhere,
        "shared memory": work.shared_bytes / gpu.shared_bytes / everywhere,
        "L2 cache": work.l2_bytes / gpu.l2_bytes / cycles,
        "memory": work.memory_bytes / (gpu.memory_gigabytes * 1e9),
    }


class Prediction(NamedTuple):
    """``bound`` is what the busiest units take; ``unit`` is that of the longest launch, or "launch"."""

    seconds: float
    bound: float
    unit: str


def predict(case: Case, gpu: Gpu) -> Prediction:
    """Return what the kernels of this package should take."""
    seconds = bound = longest = 0.0
    unit = "launch"
    works = work_of(case, gpu)
    for work in works:
        busy = unit_seconds(work, gpu)
        name = max(busy, key=busy.__getitem__)
        waves = work.blocks / gpu.multiprocessors
        fill = math.ceil(waves) / waves if waves < 8 else 1.0  # a long queue of blocks evens out
        taken = max(each * (1.0 if key in SHARED_UNITS else fill) for key, each in busy.items())
        bound += busy[name]
        seconds += taken * OVERHEAD + LAUNCH_SECONDS
        if busy[name] > longest:
            longest, unit = busy[name], name
    return Prediction(seconds, bound, "launch" if LAUNCH_SECONDS * len(works) > bound else unit)
