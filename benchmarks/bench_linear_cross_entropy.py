"""Time and peak memory of a classification head (linear layer + cross entropy), forward and backward.

Fused, with float32 and with bfloat16 products, against plain Paddle (with its strided-view kernels, the default, and
without: often faster) and PyTorch (float32, and all in bfloat16). Paddle runs after ``tune_cpu``.

    python benchmarks/bench_linear_cross_entropy.py --quick
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from _harness import (
    append_rows,
    is_installed,
    peak_memory_bytes,
    reset_peak_memory,
    run_worker,
    summarize,
    time_interleaved,
)

# rows, features, classes
QUICK = [(2048, 768, 4), (64, 384, 77), (1024, 768, 1000), (512, 384, 8192)]
FULL = [*QUICK, (2048, 768, 1000), (8192, 768, 1000), (4096, 768, 32768), (1024, 768, 131072)]
LARGEST_PADDLE = 2**27  # logits: more take minutes with the default setting, and tens of gigabytes
PADDLE = ("fused", "fused-medium", "paddle", "paddle-no-stride")
TORCH = ("torch", "torch-bf16")


def make_inputs(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Random inputs; the weight is [D, V], what both frameworks' linear layers are fastest with in Paddle."""
    rows, features, classes = shape
    rng = np.random.default_rng(0)
    return {
        "hidden": rng.standard_normal((rows, features), "float32"),
        "weight": rng.standard_normal((features, classes), "float32") / np.float32(features**0.5),
        "bias": rng.standard_normal(classes, "float32"),
        "label": rng.integers(0, classes, rows),
    }


def paddle_contestant(name: str, data: dict[str, np.ndarray]) -> Callable[[], float]:
    """One forward and backward pass in Paddle; returns the loss."""
    import paddle

    import paddle_infra as pi

    tensors = {key: paddle.to_tensor(value) for key, value in data.items()}
    wanted = [tensors[key] for key in ("hidden", "weight", "bias")]
    for tensor in wanted:
        tensor.stop_gradient = False
    hidden, weight, bias, label = (tensors[key] for key in ("hidden", "weight", "bias", "label"))

    def run() -> float:
        paddle.set_flags({"FLAGS_use_stride_kernel": name != "paddle-no-stride"})
        if name in ("fused", "fused-medium"):
            with pi.ops.set_matmul_precision("medium" if name == "fused-medium" else "highest"):
                loss = pi.ops.linear_cross_entropy(
                    hidden, weight, label, bias=bias, weight_layout="dv", impl="fused"
                )
        else:
            logits = paddle.nn.functional.linear(hidden, weight, bias)
            loss = paddle.nn.functional.cross_entropy(logits, label)
        paddle.grad(loss, wanted)
        return float(loss)

    return run


def torch_contestant(name: str, data: dict[str, np.ndarray], threads: int) -> Callable[[], float]:
    """One forward and backward pass in PyTorch; returns the loss."""
    import torch

    torch.set_num_threads(threads)
    hidden, bias = torch.tensor(data["hidden"]), torch.tensor(data["bias"])
    weight, label = torch.tensor(np.ascontiguousarray(data["weight"].T)), torch.tensor(data["label"])
    dtype = torch.bfloat16 if name == "torch-bf16" else torch.float32
    hidden, weight, bias = wanted = [tensor.to(dtype).requires_grad_() for tensor in (hidden, weight, bias)]

    def run() -> float:
        loss = torch.nn.functional.cross_entropy(torch.nn.functional.linear(hidden, weight, bias), label)
        torch.autograd.grad(loss, wanted)
        return float(loss)

    return run


def contestant(name: str, data: dict[str, np.ndarray], threads: int) -> Callable[[], float]:
    """Return the contestant of that name."""
    return torch_contestant(name, data, threads) if name in TORCH else paddle_contestant(name, data)


def work(task: dict[str, Any]) -> dict[str, Any]:
    """In a fresh process: time all contestants of one shape, or measure the peak memory of one."""
    import paddle_infra as pi

    pi.tune_cpu(task["threads"])
    data, names, threads = make_inputs(tuple(task["shape"])), task["names"], task["threads"]
    if task["metric"] == "memory":
        contestant(names[0], make_inputs((8, 16, 4)), threads)()  # what libraries allocate once
        run = contestant(names[0], data, threads)
        reset_peak_memory()
        before = peak_memory_bytes()
        run()
        return {names[0]: [float(peak_memory_bytes() - before)]}
    runs = {name: contestant(name, data, threads) for name in names}
    losses = {name: run() for name, run in runs.items()}
    for name, loss in losses.items():
        if abs(loss - losses["fused"]) > (0.05 if name in ("fused-medium", "torch-bf16") else 1e-4):
            raise RuntimeError(f"the contestants disagree: {losses}")
    return time_interleaved(runs, task["seconds"])


def measure(shapes: list[tuple[int, int, int]], threads: list[int], seconds: float) -> list[dict[str, Any]]:
    """Measure everything and print it on the way."""
    rows = []
    for shape in shapes:
        names = [*PADDLE, *(TORCH if is_installed("torch") else ())]
        if shape[0] * shape[2] >= LARGEST_PADDLE:
            names.remove("paddle")
        tasks = [("time", n, names) for n in threads]
        # Memory without the strided-view kernels is that of Paddle.
        tasks += [("memory", threads[-1], [name]) for name in names if name != "paddle-no-stride"]
        for metric, count, entrants in tasks:
            task = {"metric": metric, "shape": shape, "names": entrants, "threads": count, "seconds": seconds}
            for name, values in run_worker(__file__, ["--worker", json.dumps(task)], count).items():
                unit, scale = ("ms", 1e3) if metric == "time" else ("MB", 1e-6)
                row = {
                    "rows": shape[0],
                    "features": shape[1],
                    "classes": shape[2],
                    "pass": "forward+backward",
                    "contestant": name,
                    "metric": metric,
                    "unit": unit,
                    "threads": count,
                    **{k: round(v, 3) for k, v in summarize(values, scale).items()},
                }
                rows.append(row)
                where = f"{shape!s:18} T{count} {metric:6} {name:17}"
                print(
                    f"{where} {row['median']:10.2f} {unit}  [{row['q20']:.2f}, {row['q80']:.2f}]", flush=True
                )
    return rows


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few shapes, in under a minute")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1 2)"
    )
    parser.add_argument(
        "--no-record", action="store_true", help="only print, do not append to benchmarks/data"
    )
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments.worker)))
        return 0
    shapes, seconds = (QUICK, 0.5) if arguments.quick else (FULL, 4.0)
    rows = measure(shapes, arguments.threads, seconds)
    if not arguments.no_record:
        print(f"{len(rows)} rows appended to {append_rows('linear_cross_entropy', rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
