"""What each unit of a GPU does per cycle, and its memory per second, from the makers' documents.

Sources, by GPU:

- A100 SXM 80 GB: NVIDIA A100 datasheet (312 TFLOP/s in 16 bits, 2039 GB/s) and A100 architecture whitepaper (108
  multiprocessors, 1410 MHz, 1024 multiply-adds, 5120 bytes per cycle from its L2 cache of 40 MB).
- L40S: datasheet (362 TFLOP/s, 864 GB/s, 142 multiprocessors). RTX 4090: Ada whitepaper, appendix A (165.2 TFLOP/s
  with float32 sums, 1008 GB/s, 128 multiprocessors, 2520 MHz, 72 MB of L2).
- H100 SXM: H100 architecture whitepaper (989.4 TFLOP/s, 3352 GB/s, 132 multiprocessors, 1830 MHz with tensor cores,
  50 MB of L2). H200: its datasheet (4.8 TB/s, the same multiprocessors).
- B200: HGX B200 datasheet (2.25 PFLOP/s dense in 16 bits, 8 TB/s); 148 multiprocessors, as its driver says.

Shared memory gives 128 bytes, and the special function units 16 exponentials, per cycle and multiprocessor: CUDA
programming guide, "Arithmetic instructions", which also has 64 (sm_80) and 128 float32 operations.

Assumptions, which only a GPU can correct: the L2 bandwidth of all but the A100 is that of the A100 per cycle; on sm_90
mma.sync reaches 62 % of the published figure, which is wgmma's (as others have measured); on sm_100, whose own path is
tcgen05, mma.sync is as fast per multiprocessor as on sm_80.
"""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    """Throughput per cycle and multiprocessor, unless it says otherwise."""

    multiprocessors: int
    gigahertz: float
    multiply_adds: int  # of mma.sync in 16-bit formats with float32 sums
    peak_teraflops: float  # of the whole GPU as published: dense, 16-bit formats
    float_operations: int
    memory_gigabytes: float  # per second
    l2_megabytes: float
    exponentials: int = 16
    shared_bytes: int = 128
    l2_bytes: int = 5120  # of the whole GPU


GPUS = {
    "A100": Gpu(108, 1.41, 1024, 312.0, 64, 2039.0, 40.0),
    "L40S": Gpu(142, 2.52, 512, 362.0, 128, 864.0, 96.0),
    "4090": Gpu(128, 2.52, 256, 165.2, 128, 1008.0, 72.0),
    "H100": Gpu(132, 1.83, 1270, 989.4, 128, 3352.0, 50.0),
    "H200": Gpu(132, 1.83, 1270, 989.4, 128, 4800.0, 50.0),
    "B200": Gpu(148, 1.85, 1024, 2250.0, 128, 8000.0, 126.0),
}


def gpu_of(name: str) -> Gpu | None:
    """Return the figures of a GPU by the name that its driver has for it; None if they are not known."""
    return next((gpu for key, gpu in GPUS.items() if key in name), None)
