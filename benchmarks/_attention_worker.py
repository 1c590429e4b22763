"""What runs in a fresh process: time all contestants of one case, or the peak memory or the errors of some.

    python benchmarks/_attention_worker.py '{"task": "time", …}'

Prints one line of JSON. ``bench_attention.py`` starts it.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._attention_cases import PASSES, Case, make_inputs
from benchmarks._attention_contestants import (
    contestant,
    disagreements,
    module_of,
    set_up_paddle,
    settings_of,
)
from benchmarks._attention_decode import decode_contestant
from benchmarks._attention_gold import RESULTS, gold
from benchmarks._attention_lengths import NAMES as LENGTHS_NAMES
from benchmarks._attention_lengths import lengths_contestant
from benchmarks._harness import Contestant, peak_memory_bytes, reset_peak_memory, time_rounds
from benchmarks._peak import is_disturbed, measure_peak

SLOW_S, VERY_SLOW_S = 1.5, 3.0  # one run; see `first_runs` and `limits`
REPEAT_UP_TO_S = 15.0  # a disturbed measurement that took longer is only marked


def enter(name: str, case: Case, data: dict[str, Any], backward: bool, threads: int) -> Contestant:
    """Return the contestant of that name."""
    build = lengths_contestant if name in LENGTHS_NAMES else contestant
    return build(name, case, data, backward, threads)


def first_runs(contestants: dict[str, Contestant]) -> dict[str, float]:
    """Run all once, compare their results, and estimate the seconds of a run of each (without what is only first).

    Where Paddle is slow, only its better setting goes on: the default one does the same and copies views besides.

    Raises:
        RuntimeError: their results differ.
    """
    estimates, found = {}, {}
    for name in sorted(contestants, key="paddle".__eq__):  # the default setting last
        if name == "paddle" and estimates.get("paddle-no-stride", 0) > SLOW_S:
            continue
        entry = contestants[name]
        for _ in range(3):
            entry.prepare()
            start = time.perf_counter()
            tensors = entry.run()
            estimates[name] = min(time.perf_counter() - start, estimates.get(name, float("inf")))
            if estimates[name] > 0.3:
                break
        arrays = entry.results(tensors) if name != "paddle-relu" else None
        del tensors
        if arrays is not None:
            found[name] = arrays
    if problems := disagreements(found):
        raise RuntimeError("the contestants disagree: " + "; ".join(problems))
    return estimates


def limits(estimates: dict[str, float]) -> dict[str, int]:
    """Return fewer rounds than usual, as keyword arguments of `time_rounds`, where one run takes very long."""
    return {"min_rounds": 2} if max(estimates.values()) > VERY_SLOW_S else {}


def time_case(task: dict[str, Any]) -> dict[str, Any]:
    """Time both passes of a case, each between two measurements of the machine's peak."""
    case, threads = Case(**task["case"]), task["threads"]
    data = make_inputs(case)
    results: dict[str, Any] = {}
    for which in PASSES:
        backward = which == PASSES[1]
        contestants = {name: enter(name, case, data, backward, threads) for name in task["names"]}
        estimates = first_runs(contestants)
        entrants = {name: contestants[name] for name in estimates}
        for _ in range(2):
            start, before = time.perf_counter(), measure_peak(task["peak"], threads)
            rounds = time_rounds(entrants, estimates, task["seconds"], **limits(estimates))
            after = measure_peak(task["peak"], threads)
            disturbed = is_disturbed(before, after)
            if not disturbed or time.perf_counter() - start > REPEAT_UP_TO_S:
                break
        peak = {name: (before[name] + after[name]) / 2 for name in before}
        results[which] = {"rounds": rounds, "peak": peak, "disturbed": disturbed}
    return results


def time_decode(task: dict[str, Any]) -> dict[str, Any]:
    """Time inference with a cache, which has no backward pass."""
    case, threads = Case(**task["case"]), task["threads"]
    data = make_inputs(case)
    contestants = {name: decode_contestant(name, case, data, threads) for name in task["names"]}
    estimates = first_runs(contestants)
    before = measure_peak(task["peak"], threads)
    entrants = {name: contestants[name] for name in estimates}
    rounds = time_rounds(entrants, estimates, task["seconds"], **limits(estimates))
    return {"rounds": rounds, "disturbed": is_disturbed(before, measure_peak(task["peak"], threads))}


def measure_memory(task: dict[str, Any]) -> dict[str, float]:
    """Measure what one run of one contestant needs at its peak, above what was in use just before, and its results.

    A small case runs first: what libraries allocate once does not count.
    """
    case, threads, name = Case(**task["case"]), task["threads"], task["names"][0]
    backward = task["pass"] == PASSES[1]
    small = replace(case, batch=1, seq_q=64, seq_k=64)
    warm_up = contestant(name, small, make_inputs(small), backward, threads)
    warm_up.prepare()
    warm_up.run()
    entry = contestant(name, case, make_inputs(case), backward, threads)
    entry.prepare()
    reset_peak_memory()
    before = peak_memory_bytes()
    tensors = entry.run()
    peak = peak_memory_bytes() - before
    return {"peak": float(peak), "results": float(sum(size_of(tensor) for tensor in tensors))}


def size_of(tensor: Any) -> int:
    """Bytes of a Paddle or PyTorch tensor."""
    return tensor.element_size() * int(tensor.numel())


def measure_errors(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare every contestant's output and gradients with float64."""
    case, threads = Case(**task["case"]), task["threads"]
    data = make_inputs(case, exact_in_bfloat16=False)
    expected = gold(case, data)
    rows = []
    for name in task["names"]:
        entry = contestant(name, case, data, True, threads)
        entry.prepare()
        arrays = entry.results(entry.run())
        for result, array, exact in zip(
            RESULTS, arrays, expected, strict=False
        ):  # gradients of a bias: left out
            error = abs(array.astype("float64") - exact)
            row = {"contestant": name, "result": result, "max_error": float(error.max())}
            rows.append({**row, "mean_error": float(error.mean()), "max_value": float(abs(exact).max())})
    return rows


def main() -> None:
    """Do the task that the argument names."""
    task = json.loads(sys.argv[1])
    if any(module_of(name) == "paddle" for name in task["names"]):
        set_up_paddle(task["threads"])
    tasks = {"time": time_case, "decode": time_decode, "memory": measure_memory, "errors": measure_errors}
    work = tasks[task["task"]]
    settings = {name: settings_of(name) for name in task["names"]}
    print(json.dumps({"found": work(task), "settings": settings}))


if __name__ == "__main__":
    main()
