"""Data-parallel training of a BERT encoder: sequences per second of 1, 2, … processes, under paddle.distributed.

    python -m paddle.distributed.launch --nproc_per_node 8 benchmarks/cluster/scaling.py --model BERT-base
    python benchmarks/cluster/report_scaling.py

Weak scaling: every process has a batch of its own, of ``--batch`` sequences. Each step is forward, backward with the
exchange of gradients (``paddle.DataParallel``), and AdamW. All processes are timed together, between barriers; rank 0
appends a row to ``benchmarks/data/scaling.csv``. Run it with one process first: the report's efficiency is in relation
to that. Works with NCCL on GPUs and, to try it, with gloo on CPUs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks._encoder_contestants import SIZES, make_config
from benchmarks._harness import append_rows


def make_training(model: str, batch: int, length: int, rank: int) -> tuple[Any, list[Any]]:
    """Return a function that makes one step, and its inputs; every rank has the same weights and other data."""
    import paddle

    from paddle_infra.models import BertModel

    paddle.seed(0)
    layer = BertModel(make_config(model))
    layer.train()
    parallel = paddle.DataParallel(layer) if paddle.distributed.get_world_size() > 1 else layer
    optimizer = paddle.optimizer.AdamW(1e-5, parameters=layer.parameters())
    ids = np.random.default_rng(rank).integers(1000, 30000, (batch, length))
    inputs = [paddle.to_tensor(ids), None, paddle.to_tensor(np.ones_like(ids))]

    def step() -> float:
        loss = (parallel(*inputs) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return float(loss)  # waits for the device

    return step, inputs


def time_steps(step: Any, count: int) -> list[float]:
    """Return the seconds of each step, of the slowest process: all start together."""
    import paddle.distributed as dist

    step(), step()  # the first ones allocate
    times = []
    for _ in range(count):
        if dist.get_world_size() > 1:
            dist.barrier()
        start = time.perf_counter()
        step()
        if dist.get_world_size() > 1:
            dist.barrier()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    """Run as one of the processes that the launcher starts, or alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(SIZES), default="MiniLM-L6")
    parser.add_argument("--batch", type=int, default=16, help="sequences of each process")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--no-record", action="store_true", help="only print, append nothing")
    arguments = parser.parse_args()

    import paddle
    import paddle.distributed as dist

    dist.init_parallel_env()
    world, rank = dist.get_world_size(), dist.get_rank()
    step, _ = make_training(arguments.model, arguments.batch, arguments.length, rank)
    times = time_steps(step, arguments.steps)
    if rank != 0:
        return
    median = statistics.median(times)
    row = {"model": arguments.model, "batch": arguments.batch, "length": arguments.length, "processes": world,
           "place": paddle.device.get_device().split(":")[0], "median_ms": 1e3 * median,
           "sequences_per_second": world * arguments.batch / median, "steps": arguments.steps}  # fmt: skip
    print(
        f"{world} processes: {row['sequences_per_second']:.1f} sequences/s, {row['median_ms']:.1f} ms per step"
    )
    if not arguments.no_record:
        append_rows("scaling", [row])


if __name__ == "__main__":
    main()
