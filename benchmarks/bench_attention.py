"""Attention against Paddle and PyTorch: time, peak memory, errors, cost of a call, inference with a cache.

    python benchmarks/bench_attention.py --quick
    python benchmarks/bench_attention.py --only time memory --threads 1

Every case runs in a fresh process, where the contestants take turns. Rows are appended to
``benchmarks/data/attention*.csv`` as they are measured; ``report_attention.py`` makes tables and a plot of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import _attention_cases as cases
from benchmarks import _attention_decode as decode
from benchmarks import _attention_lengths as lengths
from benchmarks._attention_cases import PASSES, Case
from benchmarks._attention_contestants import OURS, PEERS
from benchmarks._attention_rows import (
    Row,
    accuracy_rows,
    call_rows,
    decode_rows,
    memory_row,
    rounded,
    time_rows,
)
from benchmarks._harness import ROOT, append_rows, context, is_installed, run_worker
from benchmarks._peak import build_peak_program, peak_instructions

WORKER = str(ROOT / "benchmarks/_attention_worker.py")
CALL_NAMES = ("fused", "paddle-relu", "paddle-no-stride", "torch")
MEMORY_NAMES = ("fused", "paddle-no-stride", "torch")
ACCURACY_NAMES = ("fused", "paddle-no-stride", "torch", "fused-medium", "torch-bf16")
LARGEST_SCORES = 2**30  # Paddle keeps several arrays of as many numbers: more do not fit into memory


class Plan(NamedTuple):
    """What a run does, and for how long."""

    mode: str  # "full", "quick" or "part": the report takes full runs
    threads: list[int]
    time_s: float  # for the turns of all contestants of one pass of one case
    short_s: float  # the same for calls and decoding
    time: tuple[Case, ...]
    call: tuple[Case, ...]
    memory: tuple[Case, ...]
    accuracy: tuple[Case, ...]
    decode: tuple[Case, ...]


QUICK = Plan(
    "quick",
    [1, 2],
    0.5,
    0.3,
    time=tuple(case for case in cases.QUICK if case.kind == "time"),
    call=tuple(case for case in cases.QUICK if case.kind == "call"),
    memory=cases.MEMORY_QUICK,
    accuracy=cases.ACCURACY_QUICK,
    decode=decode.QUICK,
)
FULL = Plan(
    "full",
    [1, 2],
    2.0,
    0.6,
    time=tuple(case for case in cases.FULL if case.kind == "time"),
    call=tuple(case for case in cases.FULL if case.kind == "call"),
    memory=cases.MEMORY_FULL,
    accuracy=cases.ACCURACY_FULL,
    decode=decode.FULL,
)
METRICS = ("time", "memory", "accuracy", "call", "decode")


class Bench:
    """Runs workers; knows who is installed and what the machine can do."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.peak = str(build_peak_program())
        self.isa = peak_instructions(self.peak)
        self.has_torch = is_installed("torch")

    def ask(self, kind: str, case: Case, names: tuple[str, ...], threads: int, **more: Any) -> dict[str, Any]:
        """Let a fresh process do a task, by those of the contestants that are installed."""
        entrants = [name for name in names if self.has_torch or not name.startswith("torch")]
        task = {"task": kind, "case": {**case.columns(), "kind": case.kind}, "names": entrants, **more}
        task |= {"threads": threads, "peak": self.peak}
        return run_worker(WORKER, [json.dumps(task)], threads)

    def time(self) -> Iterator[list[Row]]:
        """Time all contestants."""
        for case in self.plan.time:
            names = (*OURS, *PEERS, *(lengths.NAMES if case.has_lengths else ()))
            for threads in self.plan.threads:
                reply = self.ask("time", case, names, threads, seconds=self.plan.time_s)
                yield time_rows(case, threads, reply, self.isa)

    def call(self) -> Iterator[list[Row]]:
        """Time calls with next to nothing to compute."""
        for case in self.plan.call:
            for threads in self.plan.threads:
                reply = self.ask("time", case, CALL_NAMES, threads, seconds=self.plan.short_s)
                yield call_rows(case, threads, reply)

    def decode(self) -> Iterator[list[Row]]:
        """Time inference with a cache."""
        for case in self.plan.decode:
            for threads in self.plan.threads:
                reply = self.ask("decode", case, decode.NAMES, threads, seconds=self.plan.short_s)
                yield decode_rows(case, threads, reply)

    def memory(self) -> Iterator[list[Row]]:
        """Measure peak memory with most threads."""
        threads = max(self.plan.threads)
        for case in self.plan.memory:
            is_too_large = case.batch * case.heads * case.seq_q * case.seq_k > LARGEST_SCORES
            for which in PASSES:
                if case.option == "bias gradient" and which == PASSES[0]:
                    continue  # the gradient is what matters
                names = [n for n in MEMORY_NAMES if self.has_torch or n != "torch"]
                names = [n for n in names if not (is_too_large and n.startswith("paddle"))]
                replies = {n: self.ask("memory", case, (n,), threads, **{"pass": which}) for n in names}
                yield [memory_row(case, which, n, threads, reply) for n, reply in replies.items()]

    def accuracy(self) -> Iterator[list[Row]]:
        """Measure errors against float64: they do not depend on the number of threads."""
        threads = max(self.plan.threads)
        for case in self.plan.accuracy:
            reply = self.ask("errors", case, ACCURACY_NAMES, threads)
            yield accuracy_rows(case, threads, reply)


def describe(metric: str, row: Row) -> str:
    """One line of a row, for the terminal."""
    case = Case(**{name: row[name] for name in Case.__dataclass_fields__ if name != "kind"})
    text = f"{metric:8} {case!s:34} T{row['threads']} {row['pass']:16} {row['contestant']:16}"
    if metric == "memory":
        return f"{text} {row['peak_mb']:10.1f} MB, results {row['results_mb']:.1f}"
    if metric == "accuracy":
        return f"{text} {row['result']:10} max {row['max_error']:.1e} mean {row['mean_error']:.1e}"
    if metric == "call":
        return f"{text} {row['median_us']:10.1f} us  {row['above_relu_median_us']:+8.1f} us against relu"
    text += f" {row['median_ms']:10.3f} ms [{row['q20_ms']:.3f}, {row['q80_ms']:.3f}]"
    text += f" x {row['rounds']:<3}"
    if metric == "time":
        text += f" {row['gflops']:7.1f} GFLOP/s {row['peak_fraction']:4.0%}"
    else:
        text += f" {row['read_gb_per_s']:6.1f} GB/s"
    if row["base"]:
        text += f"  {row['ratio']:6.2f} [{row['ratio_q20']:.2f}, {row['ratio_q80']:.2f}] x {row['base']}"
    return text + ("  (disturbed)" if row["disturbed"] else "")


def file_of(metric: str) -> str:
    """Return the name of a metric's CSV file."""
    return "attention" if metric == "time" else f"attention_{metric}"


def run(plan: Plan, metrics: list[str], record: bool) -> None:
    """Measure, print and append."""
    bench, measured_in, start = Bench(plan), context(), time.perf_counter()
    for metric in metrics:
        for found in getattr(bench, metric)():
            rows = [rounded({"mode": plan.mode, **row}) for row in found]
            for row in rows:
                print(describe(metric, row))
            print(f"{time.perf_counter() - start:8.0f} s", flush=True)
            if record:
                append_rows(file_of(metric), rows, measured_in)


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few shapes, about a minute")
    parser.add_argument("--only", choices=METRICS, nargs="+", default=list(METRICS), help="what to measure")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--threads", type=int, nargs="+", help=f"numbers of threads (default: {sorted({1, cores})})"
    )
    parser.add_argument("--cases", help="only cases whose name contains this text, such as 'causal'")
    parser.add_argument("--no-record", action="store_true", help="only print, append nothing")
    parsed = parser.parse_args(words)
    parsed.threads = parsed.threads or sorted({1, cores})
    return parsed


def plan_of(arguments: argparse.Namespace) -> Plan:
    """Choose the plan that the command line asks for."""
    plan = (QUICK if arguments.quick else FULL)._replace(threads=arguments.threads)
    if not arguments.cases:
        return plan
    chosen = {
        metric: tuple(case for case in getattr(plan, metric) if arguments.cases in str(case))
        for metric in METRICS
    }
    return plan._replace(mode="part", **chosen)


def main() -> int:
    """Run from the command line."""
    arguments = arguments_of()
    run(plan_of(arguments), arguments.only, not arguments.no_record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
