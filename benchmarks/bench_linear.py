"""Linear layers with activations against Paddle and PyTorch, at the sizes of encoders.

    python benchmarks/bench_linear.py --quick
    python benchmarks/bench_linear.py --own

Every case runs in a fresh process, where the contestants take turns. Rows are appended to
``benchmarks/data/linear.csv``. ``--own`` compares oneDNN's matrix products with our own in this operator instead
(``benchmarks/data/own_gemm.csv``): why the former are used.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import (
    ROOT,
    Contestant,
    append_rows,
    context,
    is_installed,
    round_ratios,
    run_worker,
    summarize,
    time_rounds,
)
from benchmarks._peak import build_peak_program, is_disturbed, measure_peak

WORKER = str(ROOT / "benchmarks/bench_linear.py")
OURS = ("fused", "fused-medium", "fused-packed")
NAMES = (*OURS, "paddle", "paddle-no-stride", "torch", "torch-bf16")
MULTIPLIES_IN_BFLOAT16 = ("fused-medium", "fused-packed", "torch-bf16")
PASSES = ("forward", "forward+backward")


class Case(NamedTuple):
    """Rows, features, columns and activation."""

    rows: int
    features: int
    columns: int
    activation: str

    def __str__(self) -> str:
        return f"{self.rows}x{self.features}x{self.columns} {self.activation}"

    def operations(self, which: str) -> float:
        """Two per multiply-add; the backward pass has two products as large as the forward one."""
        return 2.0 * self.rows * self.features * self.columns * (3 if which == PASSES[1] else 1)


LAYERS = (
    (384, 384, "none"),
    (384, 1536, "gelu"),
    (1536, 384, "none"),
    (768, 768, "none"),
    (768, 3072, "gelu"),
    (3072, 768, "none"),
    (768, 4096, "swiglu"),
)
FULL = tuple(Case(rows, *layer) for layer in LAYERS for rows in (128, 512, 2048))
QUICK = tuple(Case(512, *layer) for layer in LAYERS[:2])


def make_inputs(case: Case) -> list[np.ndarray]:
    """Input, weight, bias and the gradient of the result."""
    rng = np.random.default_rng(0)
    width = case.columns // 2 if case.activation == "swiglu" else case.columns
    shapes = (case.rows, case.features), (case.features, case.columns), (case.columns,), (case.rows, width)
    arrays = [rng.standard_normal(shape, "float32") for shape in shapes]
    arrays[1] /= np.float32(case.features**0.5)
    return arrays


def contestant(name: str, case: Case, which: str, threads: int) -> Contestant:
    """Return the contestant of that name."""
    build = _torch if name.startswith("torch") else _paddle
    return build(name, case, which == PASSES[1], threads)


def _paddle(name: str, case: Case, backward: bool, threads: int) -> Contestant:
    import paddle
    import paddle.nn.functional as F

    import paddle_infra as pi

    x, weight, bias, grad = (paddle.to_tensor(array) for array in make_inputs(case))
    wanted = [x, weight, bias]
    for tensor in wanted:
        tensor.stop_gradient = not backward
    packed = pi.ops.pack_weight(weight) if name == "fused-packed" else None

    def plain() -> paddle.Tensor:
        z = F.linear(x, weight, bias)
        if case.activation == "swiglu":
            return F.swiglu(z) if hasattr(F, "swiglu") else paddle.incubate.nn.functional.swiglu(z)
        return F.gelu(z) if case.activation == "gelu" else z

    def ours() -> paddle.Tensor:
        return pi.ops.linear(x, weight, bias, activation=case.activation, packed_weight=packed, impl="fused")

    call = ours if name in OURS else plain

    def prepare() -> None:
        paddle.set_flags({"FLAGS_use_stride_kernel": name == "paddle"})
        pi.ops.set_matmul_precision("medium" if name in MULTIPLIES_IN_BFLOAT16 else "highest")

    def run() -> list[Any]:
        y = call()
        return [y, *paddle.grad(y, wanted, grad_outputs=grad)] if backward else [y]

    return Contestant(run, prepare, lambda found: [tensor.numpy() for tensor in found])


def _torch(name: str, case: Case, backward: bool, threads: int) -> Contestant:
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if name == "torch-bf16" else torch.float32
    x, weight, bias, grad = (torch.from_numpy(array).to(dtype) for array in make_inputs(case))
    wanted = [x, weight.t().contiguous(), bias]
    for tensor in wanted:
        tensor.requires_grad_(backward)

    def run() -> list[Any]:
        z = F.linear(*wanted)
        if case.activation == "swiglu":
            gate, up = z.chunk(2, dim=-1)
            z = F.silu(gate) * up
        elif case.activation == "gelu":
            z = F.gelu(z)
        return [z, *torch.autograd.grad(z, wanted, grad)] if backward else [z]

    def results(found: list[Any]) -> list[np.ndarray]:
        arrays = [tensor.detach().float().numpy() for tensor in found]
        return [array.T if i == 2 else array for i, array in enumerate(arrays)]

    return Contestant(run, results=results)


def worker(task: dict[str, Any]) -> None:
    """Time both passes; print JSON."""
    import paddle_infra as pi

    case, threads = Case(*task["case"]), task["threads"]
    pi.tune_cpu(threads)
    reply = {}
    for which in PASSES:
        names = [n for n in task["names"] if not (n == "fused-packed" and which == PASSES[1])]
        entries = {name: contestant(name, case, which, threads) for name in names}
        estimates, found = {}, {}
        for name, entry in entries.items():
            for _ in range(3):
                entry.prepare()
                start = time.perf_counter()
                result = entry.run()
                estimates[name] = time.perf_counter() - start
            found[name] = entry.results(result)
        _compare(found)
        before = measure_peak(task["peak"], threads)
        rounds = time_rounds(entries, estimates, task["seconds"])
        after = measure_peak(task["peak"], threads)
        peak = {key: (before[key] + after[key]) / 2 for key in before}
        reply[which] = {"rounds": rounds, "peak": peak, "disturbed": is_disturbed(before, after)}
    print(json.dumps(reply))


def _compare(found: dict[str, list[np.ndarray]]) -> None:
    expected = found[next(iter(found))]
    for name, arrays in found.items():
        allowed = 3e-2 if name in MULTIPLIES_IN_BFLOAT16 else 2e-5
        for index, (array, first) in enumerate(zip(arrays, expected, strict=True)):
            error = float(np.abs(array - first).max() / np.abs(first).max())
            if not error <= allowed:
                raise RuntimeError(f"result {index} of {name} is {error:.1e} off, at most {allowed:.0e}")


def rows_of(case: Case, threads: int, reply: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each pass and contestant; ratios above 1: ours (of the same precision) is faster.

    A row is disturbed if the peak changed meanwhile, or is less than what was reached: something else ran.
    """
    rows = []
    for which, found in reply.items():
        rounds = found["rounds"]
        for name in sorted({name for turn in rounds for name in turn}):
            times = summarize([turn[name] for turn in rounds if name in turn], 1e3)
            kind = "bfloat16" if name in MULTIPLIES_IN_BFLOAT16 and "bfloat16" in found["peak"] else "float32"
            rate = case.operations(which) / times["median"] * 1e-6
            base = "" if name == "fused" else "fused-medium" if name == "torch-bf16" else "fused"
            ratios = summarize(round_ratios(rounds, name, base)) if base else {}
            row = {**case._asdict(), "pass": which, "contestant": name, "threads": threads}
            row |= {f"{key}_ms": times[key] for key in ("median", "q20", "q80")} | {"rounds": times["rounds"]}
            row |= {"base": base, "ratio": ratios.get("median", "")}
            row |= {f"ratio_{key}": ratios.get(key, "") for key in ("q20", "q80")}
            row |= {"gflops": rate, "peak_fraction": rate / found["peak"][kind]}
            rows.append(row | {"disturbed": found["disturbed"] or row["peak_fraction"] > 1})
    return rows


def compare_own(threads: int, record: bool) -> None:
    """Let the operator multiply with oneDNN, and with our own code: in processes of their own, in turn."""
    peak, rows = str(build_peak_program()), []
    isa = "avx512_bf16" if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else "avx2"
    for case in (Case(2048, 384, 1536, "none"), Case(512, 768, 768, "none")):
        task = {"case": case, "names": OURS[:2], "threads": threads, "peak": peak, "seconds": 0.5}
        for turn in range(3):
            for products, setting in (("oneDNN", ""), ("own", isa)):
                os.environ["PADDLE_INFRA_ISA"] = setting
                for row in rows_of(case, threads, run_worker(WORKER, [json.dumps(task)], threads)):
                    rows.append({"products": products, "isa": setting, "turn": turn, **row})
                    print(products, case, row["pass"], row["contestant"], f"{row['gflops']:.0f} GFLOP/s")
    os.environ.pop("PADDLE_INFRA_ISA")
    if record:
        append_rows("own_gemm", rows)


def main() -> None:
    """Run from the command line."""
    if len(sys.argv) > 1 and sys.argv[1].startswith("{"):
        worker(json.loads(sys.argv[1]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two cases")
    parser.add_argument("--own", action="store_true", help="oneDNN against our own products")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, len(os.sched_getaffinity(0))}))
    parser.add_argument("--no-record", action="store_true", help="only print, append nothing")
    arguments = parser.parse_args()
    if arguments.own:
        compare_own(max(arguments.threads), not arguments.no_record)
        return
    peak, measured_in = str(build_peak_program()), context()
    names = [name for name in NAMES if is_installed("torch") or not name.startswith("torch")]
    for case in QUICK if arguments.quick else FULL:
        for threads in arguments.threads:
            task = {"case": case, "names": names, "threads": threads, "peak": peak, "seconds": 0.8}
            rows = rows_of(case, threads, run_worker(WORKER, [json.dumps(task)], threads))
            for row in rows:
                ratio = f"{row['ratio']:.2f} x {row['base']}" if row["base"] else ""
                print(
                    f"{case!s:24} T{threads} {row['pass']:16} {row['contestant']:16} {row['median_ms']:8.3f} ms "
                    f"{row['gflops']:6.0f} GFLOP/s {row['peak_fraction']:4.0%} {ratio}"
                    + (" disturbed" if row["disturbed"] else ""),
                    flush=True,
                )
            if not arguments.no_record:
                append_rows("linear", rows, measured_in)


if __name__ == "__main__":
    main()
