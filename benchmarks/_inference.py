"""What the benchmarks of inference operators share: workers, rounds, rows, the command line."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from _harness import (
    Contestant,
    append_rows,
    is_installed,
    peak_memory_bytes,
    reset_peak_memory,
    round_ratios,
    run_worker,
    summarize,
    time_rounds,
)

Shape = tuple[int, ...]


class Benchmark(NamedTuple):
    """An operator against others.

    ``make`` is called in a fresh process, with a shape and a number of threads, and returns contestants by name;
    those whose name starts with "torch" only if ``with_torch``. ``check`` raises if their results disagree.
    """

    name: str
    script: str
    columns: tuple[str, ...]
    quick: Sequence[Shape]
    full: Sequence[Shape]
    make: Callable[[Shape, int, bool], Mapping[str, Contestant]]
    check: Callable[[Mapping[str, Any]], None]


def work(bench: Benchmark, task: dict[str, Any]) -> dict[str, Any]:
    """In a fresh process: time all contestants of one shape, or measure the peak memory of one."""
    import paddle_infra as pi

    pi.tune_cpu(task["threads"])
    contestants = bench.make(tuple(task["shape"]), task["threads"], task["with_torch"])
    if task["metric"] == "memory":
        contestant = contestants[task["name"]]
        small = bench.make(bench.quick[0], task["threads"], task["with_torch"])[task["name"]]
        small.prepare()
        small.run()  # what libraries allocate once
        contestant.prepare()
        reset_peak_memory()
        before = peak_memory_bytes()
        contestant.run()
        return {"bytes": peak_memory_bytes() - before}
    results, estimates = {}, {}
    for name, contestant in contestants.items():
        contestant.prepare()
        results[name] = contestant.results(contestant.run())
        start = time.perf_counter()
        contestant.run()
        estimates[name] = time.perf_counter() - start
    bench.check(results)
    return {"rounds": time_rounds(contestants, estimates, task["seconds"])}


def measure(
    bench: Benchmark, shapes: Sequence[Shape], threads: Sequence[int], seconds: float
) -> list[dict[str, Any]]:
    """Measure everything and print it on the way."""
    with_torch = is_installed("torch")
    rows = []
    for shape in shapes:
        for count in threads:
            task = {"shape": shape, "threads": count, "with_torch": with_torch, "seconds": seconds}

            def ask(metric: str, task: dict[str, Any] = task, **more: Any) -> Any:
                return run_worker(
                    bench.script,
                    ["--worker", json.dumps({**task, "metric": metric, **more})],
                    task["threads"],
                )

            rounds = ask("time")["rounds"]
            names = list(dict.fromkeys(name for times in rounds for name in times))
            for name in names:
                times = [turn[name] for turn in rounds if name in turn]
                ratio = summarize(round_ratios(rounds, name, "fused"))["median"]
                rows.append(_row(bench, shape, count, name, "time", "ms", summarize(times, 1e3), ratio))
            if count != threads[-1]:
                continue
            peaks = {name: ask("memory", name=name)["bytes"] for name in names}
            for name, peak in peaks.items():
                ratio = peak / max(peaks["fused"], 1)
                rows.append(_row(bench, shape, count, name, "memory", "MB", summarize([peak], 1e-6), ratio))
    return rows


def _row(
    bench: Benchmark, shape: Shape, threads: int, name: str, metric: str, unit: str, found: Any, ratio: float
) -> dict[str, Any]:
    row = {
        **dict(zip(bench.columns, shape, strict=True)),
        "contestant": name,
        "metric": metric,
        "unit": unit,
        "threads": threads,
        **{key: round(value, 4) for key, value in found.items()},
        "times_fused": round(ratio, 3),
    }
    where = f"{shape!s:20} T{threads} {metric:6} {name:22}"
    print(f"{where} {row['median']:10.3f} {unit}  {row['times_fused']:8.2f} of fused", flush=True)
    return row


def main(bench: Benchmark, description: str) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few shapes, in about a minute")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1 2)"
    )
    parser.add_argument(
        "--no-record", action="store_true", help="only print, do not append to benchmarks/data"
    )
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(bench, arguments.worker)))
        return 0
    shapes, seconds = (bench.quick, 1.0) if arguments.quick else (bench.full, 20.0)
    rows = measure(bench, shapes, arguments.threads, seconds)
    if not arguments.no_record:
        print(f"{len(rows)} rows appended to {append_rows(bench.name, rows)}")
    return 0


def set_stride_kernel(wanted: bool) -> Callable[[], None]:
    """Return what switches Paddle's strided-view kernels; operators are often faster without."""

    def prepare() -> None:
        import paddle

        paddle.set_flags({"FLAGS_use_stride_kernel": wanted})

    return prepare
