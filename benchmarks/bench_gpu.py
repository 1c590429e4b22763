"""The CUDA kernels on a GPU: time, TFLOP/s and memory beside PyTorch and peers, and beside what was predicted.

    make bench-gpu

Needs a GPU, PyTorch with CUDA, and the library that ``make cuda`` builds. Every result is compared with float64 (heads
of models: float32) before it is timed. Contestants take turns, in another order each round; the GPU's own events time
them; the same arrays are used again and again, so the L2 cache is warm. Rows are appended to
``benchmarks/data/gpu.csv``; ``report_gpu.py`` puts predictions beside them.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import _gpu_contestants as contestants
from benchmarks._gpu_cases import CASES, TINY, Case
from benchmarks._gpu_gold import TOLERANCE, error_of, gold
from benchmarks._gpu_library import OURS
from benchmarks._gpu_machine import Machine
from benchmarks._gpu_peaks import gpu_of
from benchmarks._gpu_roofline import predict
from benchmarks._harness import ROOT, append_rows, context, round_ratios, summarize

LIBRARY = ROOT / "build/cuda/libpaddle_infra_kernels.so"
TURN_SECONDS = 5e-3  # of ours; others run as often


def runnable(machine: Machine, case: Case) -> dict[str, dict[str, Any]]:
    """Return the run, the error and the peak memory of each contestant that can compute the case.

    Raises:
        RuntimeError: a result is too far from the true one, or this package's library refuses.
    """
    inputs = contestants.make_inputs(machine, case)
    true = gold(machine, case, inputs)
    found = {}
    for name in contestants.available(case):
        try:
            before = machine.allocated()
            run = contestants.contestant(machine, name, case, inputs)
            error = error_of(machine, case, run(), true)
            peak = machine.peak_of(run, before)
        except (RuntimeError, ImportError) as reason:  # a backend that does not have this case says so
            if name == OURS:
                raise
            print(f"{name}: {(str(reason) or type(reason).__name__).splitlines()[0]}", file=sys.stderr)
            continue
        if not error <= TOLERANCE:
            raise RuntimeError(
                f"{name}, {case}: {error:.1e} of the largest value off, at most {TOLERANCE} expected"
            )
        found[name] = {"run": run, "error": error, "peak": peak}
    return found


def take_turns(machine: Machine, runs: dict[str, Callable[[], Any]], rounds: int) -> list[dict[str, float]]:
    """Return the seconds of a run of each, for every round."""
    repeats = max(1, int(TURN_SECONDS / machine.measure(runs[OURS], 3)))
    times = []
    for turn in range(rounds):
        order = random.Random(turn).sample(list(runs), len(runs))
        times.append({name: machine.measure(runs[name], repeats) for name in order})
    return times


def rows_of(machine: Machine, case: Case, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each contestant."""
    found = runnable(machine, case)
    times = take_turns(machine, {name: each["run"] for name, each in found.items()}, rounds)
    state, gpu = machine.state(), gpu_of(machine.name)
    rows = []
    for name, each in found.items():
        seconds = summarize([turn[name] for turn in times])
        ratios = summarize(round_ratios(times, name, OURS))
        teraflops = case.operations / seconds["median"] * 1e-12
        gigabytes = case.bytes_moved / seconds["median"] * 1e-9
        row: dict[str, Any] = {
            "gpu": machine.name,
            "kernel": case.kernel,
            "case": case.label,
            "contestant": name,
        }
        row |= {f"{key}_ms": 1e3 * seconds[key] for key in ("median", "q20", "q80")} | {"rounds": rounds}
        row |= {f"ratio_{key}": ratios[key] for key in ("median", "q20", "q80")}
        row |= {"teraflops": teraflops, "gigabytes_per_second": gigabytes}
        row |= {"peak_share": teraflops / gpu.peak_teraflops if gpu else "",
                "memory_share": gigabytes / gpu.memory_gigabytes if gpu else ""}  # fmt: skip
        row |= {"peak_mb": 1e-6 * each["peak"], "error": each["error"], "l2": "warm"}
        predicted = predict(case, gpu) if name == OURS and gpu else None
        row |= {"predicted_ms": 1e3 * predicted.seconds if predicted else "",
                "bound_by": predicted.unit if predicted else ""}  # fmt: skip
        rows.append(row | state)
    return rows


def run_all(machine: Machine, cases: Iterable[Case], rounds: int, record: Callable[[list[Any]], Any]) -> None:
    """Time the cases one after the other; print each row, and give those of each case to ``record``."""
    for case in cases:
        rows = rows_of(machine, case, rounds)
        for row in rows:
            predicted = f"predicted {row['predicted_ms']:.3f}" if row["predicted_ms"] != "" else ""
            print(f"{row['kernel']} {row['case']} {row['contestant']:18} {row['median_ms']:9.3f} ms "
                  f"{row['teraflops']:6.1f} TFLOP/s {row['gigabytes_per_second']:6.0f} GB/s "
                  f"{row['ratio_median']:6.2f} x {predicted}", flush=True)  # fmt: skip
        record(rows)
        if machine.is_gpu:
            machine.torch.cuda.empty_cache()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="", help="kernels whose names contain this")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny cases, to try the benchmark; implies --no-record"
    )
    parser.add_argument("--no-record", action="store_true", help="only print, append nothing")
    arguments = parser.parse_args()
    path = Path(os.environ.get("PADDLE_INFRA_CUDA_LIBRARY", LIBRARY))
    try:
        import torch
    except ImportError:
        sys.exit("PyTorch is not installed: install it with CUDA")
    if not torch.cuda.is_available():
        sys.exit("there is no GPU that PyTorch can use: this benchmark needs one")
    if not path.is_file():
        sys.exit(f"{path} is not there: run `make cuda`, or set PADDLE_INFRA_CUDA_LIBRARY")
    cases = [case for case in (TINY if arguments.tiny else CASES) if arguments.only in case.kernel]
    if not cases:
        sys.exit(
            f"no kernel is called {arguments.only!r}: {', '.join(dict.fromkeys(c.kernel for c in CASES))}"
        )
    measured_in = context()

    def record(rows: list[Any]) -> None:
        if not (arguments.no_record or arguments.tiny):
            append_rows("gpu", rows, measured_in)

    run_all(Machine("cuda", ctypes.CDLL(str(path))), cases, arguments.rounds, record)


if __name__ == "__main__":
    main()
