"""Time and peak memory of a linear layer with GELU in int8, against float32 and bfloat16 layers of others.

Shapes are those of encoders: rows are tokens. PyTorch's dynamic quantization does the same as ours, except that
it has one scale for all rows.

    python benchmarks/bench_linear_int8.py --quick
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from _inference import Benchmark, Contestant, Shape, main, set_stride_kernel

# rows, features in, features out
QUICK = [(128, 384, 1536), (128, 768, 768), (128, 768, 3072)]
FULL = [
    (rows, *sizes)
    for rows in (1, 128, 4096)
    for sizes in ((384, 384), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768))
]


def make_inputs(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden states, weight [K, N] and bias; results are about 1."""
    rows, depth, columns = shape
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((depth, columns), "float32") * np.float32(depth**-0.5)
    return rng.standard_normal((rows, depth), "float32"), weight, rng.standard_normal(columns, "float32")


def paddle_contestants(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> dict[str, Contestant]:
    """Ours, and Paddle's own operators with and without its strided-view kernels."""
    import paddle

    import paddle_infra as pi

    states, table, shift = (paddle.to_tensor(array) for array in (x, weight, bias))
    codes, scale = pi.ops.quantize_weight(table)

    def fused() -> Any:
        return pi.ops.linear_int8(states, codes, scale, bias=shift, activation="gelu", impl="fused")

    def dense() -> Any:
        with paddle.no_grad():
            return paddle.nn.functional.gelu(paddle.nn.functional.linear(states, table, shift))

    return {
        "fused": Contestant(fused, results=array_of),
        "paddle": Contestant(dense, set_stride_kernel(True), array_of),
        "paddle-no-stride": Contestant(dense, set_stride_kernel(False), array_of),
    }


def torch_contestants(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, threads: int
) -> dict[str, Contestant]:
    """PyTorch in float32, bfloat16 and, where it can, with its dynamic quantization."""
    import torch

    torch.set_num_threads(threads)
    layer = torch.nn.Sequential(torch.nn.Linear(*weight.shape), torch.nn.GELU()).eval()
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor(weight.T))
        layer[0].bias.copy_(torch.tensor(bias))
    states = torch.tensor(x)

    def forward(model: Any, inputs: Any) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode():
                return model(inputs)

        return run

    found = {"torch": layer}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, without a successor for the CPU
        try:
            found["torch-dynamic-int8"] = torch.ao.quantization.quantize_dynamic(layer, {torch.nn.Linear})
        except (AttributeError, RuntimeError) as error:
            print(f"skipped: torch's dynamic quantization does not work here: {error}", file=sys.stderr)
    contestants = {
        name: Contestant(forward(model, states), results=array_of) for name, model in found.items()
    }
    half = torch.nn.Sequential(torch.nn.Linear(*weight.shape), torch.nn.GELU()).eval()
    half.load_state_dict(layer.state_dict())
    run_half = forward(half.bfloat16(), states.bfloat16())
    return {**contestants, "torch-bf16": Contestant(run_half, results=lambda y: y.float().numpy())}


def array_of(found: Any) -> np.ndarray:
    """Return the result as an array."""
    return found.numpy()


def make(shape: Shape, threads: int, with_torch: bool) -> dict[str, Contestant]:
    """Return all contestants."""
    inputs = make_inputs(shape)
    others = torch_contestants(*inputs, threads) if with_torch else {}
    return {**paddle_contestants(*inputs), **others}


def check(results: Mapping[str, Any]) -> None:
    """Compare with Paddle in float32: the usual error of int8 is about 1 %."""
    exact = results["paddle"]
    for name, y in results.items():
        allowed = 0.03 if "int8" in name or "bf16" in name or name == "fused" else 1e-5
        error = float((y - exact).std() / exact.std())
        if not error < allowed:
            raise RuntimeError(f"{name} differs from Paddle by {error:.2g} of the usual result")


BENCHMARK = Benchmark("linear_int8", __file__, ("rows", "features", "columns"), QUICK, FULL, make, check)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK, __doc__))
