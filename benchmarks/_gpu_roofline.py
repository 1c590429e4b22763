"""What a GPU should take for attention, computed beforehand from the work and from what each unit does per cycle.

A kernel cannot be faster than its busiest unit. The prediction is that bound, with the share of a last, partly filled
wave of blocks and of instructions that are nobody's work (``OVERHEAD``). It is to be compared with measurement, and
corrected where that shows it wrong: no GPU has run the kernels yet.
"""

from __future__ import annotations

import math
from typing import NamedTuple

OVERHEAD = 1.15
LAUNCH_SECONDS = 4e-6
KEYS = 64  # of a step
WARPS = 4  # of a block


def queries_of(head_dim: int) -> int:
    """Queries of a block: as csrc/attention/attention_fwd.cuh has them."""
    return 128 if head_dim <= 64 else 64


class Gpu(NamedTuple):
    """Throughput per cycle and multiprocessor, from the makers' tables."""

    multiprocessors: int
    gigahertz: float
    multiply_adds: int  # of mma.sync in 16-bit formats with float32 sums
    exponentials: int
    float_operations: int
    shared_bytes: int
    memory_gigabytes: float  # per second
    registers: int = 65536
    shared_kilobytes: int = 164


# mma.sync reaches about 62 % of what wgmma does on sm_90 (measured by others): 1270 of 2048.
GPUS = {
    "A100": Gpu(108, 1.41, 1024, 16, 64, 128, 1935.0),
    "H100": Gpu(132, 1.755, 1270, 16, 128, 128, 3350.0, shared_kilobytes=228),
    "H200": Gpu(132, 1.755, 1270, 16, 128, 128, 4800.0, shared_kilobytes=228),
    "L40S": Gpu(142, 2.52, 512, 16, 128, 128, 864.0, shared_kilobytes=100),
    "4090": Gpu(128, 2.52, 256, 16, 128, 128, 1008.0, shared_kilobytes=100),
}


class Attention(NamedTuple):
    """A case."""

    batch: int
    length: int
    heads: int
    head_dim: int
    is_causal: bool

    @property
    def blocks(self) -> int:
        """Blocks of the launch."""
        return self.batch * self.heads * math.ceil(self.length / queries_of(self.head_dim))

    @property
    def steps(self) -> int:
        """Tiles of keys that all blocks together go through."""
        ends = range(
            queries_of(self.head_dim), self.length + queries_of(self.head_dim), queries_of(self.head_dim)
        )
        of_head = sum(
            math.ceil(min(end if self.is_causal else self.length, self.length) / KEYS) for end in ends
        )
        return self.batch * self.heads * of_head

    def operations(self, products: int = 2) -> float:
        """Two per multiply-add of the pairs that are visible: the usual figure."""
        pairs = self.length * (self.length + 1) / 2 if self.is_causal else self.length**2
        return 2.0 * products * self.batch * self.heads * pairs * self.head_dim

    @property
    def bytes_moved(self) -> float:
        """Query, key, value and result, each once."""
        return 4.0 * 2 * self.batch * self.length * self.heads * self.head_dim


def gpu_of(name: str) -> Gpu | None:
    """Return the figures of a GPU by the name that its driver has for it; None if they are not known."""
    return next((gpu for key, gpu in GPUS.items() if key in name), None)


def forward_cycles(case: Attention, gpu: Gpu) -> dict[str, float]:
    """Cycles that each unit of a multiprocessor is busy for one step of one block."""
    d, queries = case.head_dim, queries_of(case.head_dim)
    scores = queries * KEYS
    keys_and_values = 2 * 2 * KEYS * d  # bytes
    again = 2 * queries * d if queries > 64 else 0  # of Q, which two tiles of a warp read in every step
    return {
        "tensor cores": 2 * scores * d / gpu.multiply_adds,
        "exponentials": scores / gpu.exponentials,
        # scale, maximum, sum, half of a packing; the output fades once.
        "float operations": (4.5 * scores + queries * d) / gpu.float_operations,
        # Every warp reads K and V whole; the copy writes them once.
        "shared memory": ((WARPS + 1) * keys_and_values + again) / gpu.shared_bytes,
    }


def predict_forward(case: Attention, gpu: Gpu) -> dict[str, float | str]:
    """Return the predicted seconds, the bound, and which unit makes it."""
    cycles = forward_cycles(case, gpu)
    unit = max(cycles, key=cycles.__getitem__)
    waves = case.blocks / gpu.multiprocessors
    fill = math.ceil(waves) / waves if waves < 8 else 1.0  # a long queue of blocks evens out
    compute = case.steps * cycles[unit] / (gpu.multiprocessors * gpu.gigahertz * 1e9)
    memory = case.bytes_moved / (gpu.memory_gigabytes * 1e9)
    bound = max(compute, memory)
    if memory > compute:
        unit = "memory"
    return {"bound": bound, "seconds": bound * fill * OVERHEAD + LAUNCH_SECONDS, "unit": unit}
