"""Time and peak memory of the k most probable classes: the fused operator against a dense softmax and top-k.

Rows are what is predicted at once (a decoding step, a batch of tokens), classes a vocabulary.

    python benchmarks/bench_linear_topk.py --quick
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from _inference import Benchmark, Contestant, Shape, main, set_stride_kernel

K = 5
# rows, features, classes
QUICK = [(1, 768, 32768), (64, 768, 1000), (64, 768, 32768)]
FULL = [(rows, 768, classes) for rows in (1, 64, 1024) for classes in (1000, 32768, 131072)]


def make_inputs(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states, and a weight [V, D] that gives logits a spread of 3."""
    rows, features, classes = shape
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((classes, features), "float32") * np.float32(3.0 / features**0.5)
    return rng.standard_normal((rows, features), "float32"), weight


def paddle_contestants(hidden: np.ndarray, weight: np.ndarray) -> dict[str, Contestant]:
    """Ours in both precisions, and Paddle's own operators with and without its strided-view kernels."""
    import paddle

    import paddle_infra as pi

    states, table = paddle.to_tensor(hidden), paddle.to_tensor(weight)

    def fused(precision: str) -> Callable[[], Any]:
        def run() -> Any:
            with pi.ops.set_matmul_precision(precision):
                return pi.ops.linear_topk(states, table, K, impl="fused")

        return run

    def dense() -> Any:
        with paddle.no_grad():
            logits = paddle.matmul(states, table, transpose_y=True)
            return paddle.topk(paddle.nn.functional.softmax(logits), K)

    return {
        "fused": Contestant(fused("highest"), results=arrays),
        "fused-medium": Contestant(fused("medium"), results=arrays),
        "paddle": Contestant(dense, set_stride_kernel(True), arrays),
        "paddle-no-stride": Contestant(dense, set_stride_kernel(False), arrays),
    }


def torch_contestants(hidden: np.ndarray, weight: np.ndarray, threads: int) -> dict[str, Contestant]:
    """PyTorch in float32 and with a bfloat16 product."""
    import torch

    torch.set_num_threads(threads)
    states, table = torch.tensor(hidden), torch.tensor(weight)
    rounded = table.bfloat16()

    def run() -> Any:
        with torch.inference_mode():
            return torch.topk(torch.softmax(torch.nn.functional.linear(states, table), -1), K)

    def run_bf16() -> Any:
        with torch.inference_mode():
            logits = torch.nn.functional.linear(states.bfloat16(), rounded)
            return torch.topk(torch.softmax(logits.float(), -1), K)

    return {"torch": Contestant(run, results=arrays), "torch-bf16": Contestant(run_bf16, results=arrays)}


def arrays(found: Any) -> list[np.ndarray]:
    """Return probabilities and classes."""
    return [x.numpy() for x in found]


def make(shape: Shape, threads: int, with_torch: bool) -> dict[str, Contestant]:
    """Return all contestants."""
    inputs = make_inputs(shape)
    others = torch_contestants(*inputs, threads) if with_torch else {}
    return {**paddle_contestants(*inputs), **others}


def check(results: Mapping[str, Any]) -> None:
    """Compare probabilities: near ties may change places, above all in bfloat16."""
    for name, (prob, _) in results.items():
        allowed = 0.1 if name in ("fused-medium", "torch-bf16") else 1e-4
        worst = np.abs(prob / results["fused"][0] - 1.0).max()
        if not worst < allowed:
            raise RuntimeError(f"{name} differs from fused by {worst:.2g} of a probability")


BENCHMARK = Benchmark("linear_topk", __file__, ("rows", "features", "classes"), QUICK, FULL, make, check)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK, __doc__))
