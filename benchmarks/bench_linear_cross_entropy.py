"""Time and peak memory of a classification head with cross entropy: a training step, and evaluation.

    python benchmarks/bench_linear_cross_entropy.py --quick
    python benchmarks/bench_linear_cross_entropy.py --threads 2 && python benchmarks/report_linear_cross_entropy.py

Fused, in both precisions, against Paddle (with and without its strided-view kernels, tuned by ``tune_cpu``) and PyTorch
(float32, and bfloat16 in two ways). Each case runs in a fresh process, where contestants take turns; memory is measured
in a process for each. Heads that take seconds are timed with the largest number of threads only. Rows are appended to
``benchmarks/data/linear_cross_entropy.csv`` and ``linear_cross_entropy_memory.csv``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import _head_contestants as heads
from benchmarks._harness import (
    ROOT,
    append_rows,
    context,
    peak_memory_bytes,
    reset_peak_memory,
    round_ratios,
    run_worker,
    summarize,
    time_rounds,
)
from benchmarks._head_contestants import Case

WORKER = str(ROOT / "benchmarks/bench_linear_cross_entropy.py")
QUICK = (Case(2048, 768, 4), Case(64, 384, 77), Case(2048, 768, 1000), Case(512, 384, 8192))
FULL = (*QUICK, Case(8192, 768, 1000), Case(4096, 768, 32768), Case(1024, 768, 131072))
MEMORY_ONLY = (Case(8192, 768, 131072),)  # the logits would have 4 GB: ours alone
LARGE = 5e10  # multiply-adds; from there on a step takes seconds


def worker(task: dict[str, Any]) -> None:
    """Time all contestants, or measure the peak memory of one; print JSON."""
    import paddle_infra as pi

    pi.tune_cpu(task["threads"])
    case, threads = Case(*task["case"]), task["threads"]
    if task["task"] == "memory":
        print(json.dumps(peak_of(task["names"][0], case, threads)))
        return
    found = {}
    for which, share in (("step", 0.7), ("forward", 0.3)):
        found[which] = time_pass(case, which, task["names"], threads, share * task["seconds"])
    print(json.dumps(found))


def time_pass(
    case: Case, which: str, names: list[str], threads: int, seconds: float
) -> list[dict[str, float]]:
    """Let all contestants take turns, after checking that they agree; return the times of each round."""
    contestants = {name: heads.contestant(name, case, threads, which) for name in names}
    estimates, losses = {}, {}
    for name, entry in contestants.items():
        entry.prepare()
        for turn in range(3):  # the first run is slower
            start = time.perf_counter()
            losses[name] = entry.results(entry.run())
            estimates[name] = time.perf_counter() - start
            if turn and sum(estimates.values()) > seconds:
                break
    if problems := heads.disagreements(losses):
        raise RuntimeError("the contestants disagree: " + "; ".join(problems))
    is_slow = sum(estimates.values()) > seconds / 3
    return time_rounds(contestants, estimates, seconds, min_rounds=2 if is_slow else 3)


def peak_of(name: str, case: Case, threads: int) -> int:
    """Return the bytes of a step above its inputs."""
    small = heads.contestant(name, Case(8, 16, 40), threads)
    small.prepare()
    small.run()  # what libraries allocate once
    entry = heads.contestant(name, case, threads)
    entry.prepare()
    reset_peak_memory()
    before = peak_memory_bytes()
    found = entry.run()
    assert found  # the gradients are alive until here
    return peak_memory_bytes() - before


def base_of(name: str) -> str:
    """Return the contestant of ours whose time a contestant's is divided by."""
    return "" if name == "fused" else "fused-medium" if name in heads.TORCH_BF16 else "fused"


def time_rows(case: Case, which: str, threads: int, rounds: list[dict[str, float]]) -> list[dict[str, Any]]:
    """One row for each contestant; a ratio above 1: ours is faster."""
    rows = []
    for name in (name for name in heads.NAMES if any(name in turn for turn in rounds)):
        times = summarize([turn[name] for turn in rounds if name in turn], 1e3)
        row = {**case._asdict(), "pass": which, "contestant": name, "threads": threads}
        row |= {f"{key}_ms": times[key] for key in ("median", "q20", "q80")} | {"rounds": times["rounds"]}
        base = base_of(name)
        ratios = summarize(round_ratios(rounds, name, base)) if base else {}
        row |= {"base": base, "ratio": ratios.get("median", "")}
        rows.append(row | {f"ratio_{key}": ratios.get(key, "") for key in ("q20", "q80")})
    return rows


def memory_row(case: Case, name: str, threads: int, peak: int) -> dict[str, Any]:
    """One row: ``step_mb`` is what a step takes above its inputs, gradients included."""
    tensors = 1e-6 * case.tensor_bytes
    row = {**case._asdict(), "contestant": name, "threads": threads, "inputs_mb": tensors}
    # Of inputs and gradients together: what cannot be avoided.
    return row | {"step_mb": 1e-6 * peak, "peak_ratio": (tensors + 1e-6 * peak) / (2 * tensors)}


def measure_time(case: Case, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Time one case with each number of threads; print on the way."""
    most = max(arguments.threads)
    found = []
    for threads in [most] if case.multiply_adds > LARGE else arguments.threads:
        task = {"task": "time", "case": case, "names": heads.available(), "threads": threads}
        task["seconds"] = arguments.seconds
        passes = run_worker(WORKER, [json.dumps(task)], threads)
        rows = [row for which in heads.PASSES for row in time_rows(case, which, threads, passes[which])]
        for row in rows:
            ratio = f"{row['ratio']:5.2f} x {row['base']}" if row["base"] else ""
            print(
                f"{case!s:20} T{threads} {row['pass']:7} {row['contestant']:16} {row['median_ms']:9.3f} ms {ratio}",
                flush=True,
            )
        found += rows
    return found


def measure_memory(case: Case, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the memory of each contestant; print on the way."""
    names = heads.OURS if case in MEMORY_ONLY else heads.available()
    threads = max(arguments.threads)
    rows = []
    for name in (name for name in names if name != "paddle-no-stride"):  # the same as Paddle's
        task = {"task": "memory", "case": case, "names": [name], "threads": threads}
        rows.append(memory_row(case, name, threads, run_worker(WORKER, [json.dumps(task)], threads)))
        print(
            f"{case!s:20} T{threads} {name:16} {rows[-1]['step_mb']:9.1f} MB {rows[-1]['peak_ratio']:5.2f}",
            flush=True,
        )
    return rows


def main() -> None:
    """Run from the command line."""
    if len(sys.argv) > 1 and sys.argv[1].startswith("{"):
        worker(json.loads(sys.argv[1]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small shapes, about a minute")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, len(os.sched_getaffinity(0))}))
    parser.add_argument("--no-record", action="store_true", help="only print, append nothing")
    parser.add_argument(
        "--cases", default="", help="only cases whose name contains this text, such as '768 x 4'"
    )
    arguments = parser.parse_args()
    arguments.seconds = 1.5 if arguments.quick else 8.0
    mode, measured_in = {"mode": "quick" if arguments.quick else "full"}, context()
    cases = QUICK if arguments.quick else (*FULL, *MEMORY_ONLY)
    for case in (case for case in cases if arguments.cases in str(case)):
        times = [] if case in MEMORY_ONLY else measure_time(case, arguments)
        memory = measure_memory(case, arguments)
        for name, rows in (("linear_cross_entropy", times), ("linear_cross_entropy_memory", memory)):
            if rows and not arguments.no_record:
                append_rows(name, [{**mode, **row} for row in rows], measured_in)


if __name__ == "__main__":
    main()
