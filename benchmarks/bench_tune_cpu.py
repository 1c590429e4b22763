"""Paddle's float32 matrix product with its defaults and after ``paddle_infra.tune_cpu``: GFLOP/s.

The setting is read once per process, so each contestant has processes of its own, in turn.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import append_rows, run_worker, summarize

SHAPES = ((1024, 384, 1536), (1024, 1024, 1024))
ROUNDS = 5  # processes per contestant and number of threads
RUNS = 15  # products per process; the median counts


def worker(contestant: str, threads: int) -> None:
    """Print the GFLOP/s of each shape as JSON."""
    import paddle

    import paddle_infra

    if contestant == "tuned":
        paddle_infra.tune_cpu(threads)
    else:
        paddle.base.core.set_num_threads(threads)
    rates = []
    for rows, inner, columns in SHAPES:
        a, b = paddle.randn([rows, inner]), paddle.randn([inner, columns])
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            paddle.matmul(a, b)
            seconds.append(time.perf_counter() - start)
        rates.append(2e-9 * rows * inner * columns / statistics.median(seconds))
    print(json.dumps(rates))


def main() -> None:
    """Measure, print and append the rows."""
    rows = []
    for threads in (1, 2):
        rates: dict[str, list[list[float]]] = {"default": [], "tuned": []}
        for _ in range(ROUNDS):
            for contestant, found in rates.items():
                found.append(run_worker(__file__, [contestant, str(threads)], threads))
        for index, shape in enumerate(SHAPES):
            for contestant, found in rates.items():
                summary = summarize([rate[index] for rate in found])
                name = " x ".join(map(str, shape))
                print(f"{name:20} T{threads} {contestant:8} {summary['median']:7.1f} GFLOP/s")
                row = {"shape": name, "contestant": contestant, "metric": "rate", "unit": "GFLOP/s"}
                rows.append({**row, "threads": threads, **summary})
    print(append_rows("tune_cpu", rows))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(sys.argv[1], int(sys.argv[2]))
    else:
        main()
