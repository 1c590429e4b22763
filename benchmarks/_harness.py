"""Measures contestants fairly, and appends the rows to a CSV file.

Contestants take turns in one process, in another order each round, so that a disturbance of the machine hits all of
them; medians and quantiles are reported, never the mean or the best, of times and of the ratios within each round.
Peak memory is measured in a fresh process for each, above what was in use just before. The number of threads is fixed
by the environment of a fresh process, because OpenMP reads it once.
"""

from __future__ import annotations

import csv
import ctypes
import datetime
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "benchmarks/data"
_LIBRARIES = ("paddlepaddle", "torch", "numpy")


def time_interleaved(
    contestants: Mapping[str, Callable[[], object]], seconds: float, min_rounds: int = 5
) -> dict[str, list[float]]:
    """Run all in turn, after one unmeasured round, until ``seconds`` have passed; return the seconds of every run."""
    for run in contestants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < min_rounds or time.perf_counter() < end:
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
        rounds += 1
    return times


class Contestant(NamedTuple):
    """One way to compute something."""

    run: Callable[[], Any]  # what is timed
    prepare: Callable[[], None] = lambda: None  # before it, not timed: flags, precision
    results: Callable[[Any], Any] = lambda found: found  # what `run` returned, to compare with the others
    work_ratio: float = 1.0  # times are multiplied by it: for a contestant that does slightly other work


def plan_strides(
    costs: Mapping[str, float], seconds: float, min_rounds: int = 3, max_rounds: int = 50
) -> tuple[int, dict[str, int]]:
    """Plan how many rounds there are, and that a contestant takes part in every ``stride``-th of them.

    Each may use an equal share of ``seconds``, but has at least ``min_rounds`` turns. There are ``min_rounds`` times a
    power of two rounds, and strides are powers of two, so the rounds of a slow contestant are among those of every
    faster one: each pair meets in as many rounds as the slower of the two has.

    Args:
        costs: seconds that one turn of each takes.
        seconds: for all turns of all together; more if ``min_rounds`` need more.
        min_rounds: at least so many turns for each.
        max_rounds: at most so many rounds.
    """
    share = seconds / len(costs)
    turns = {name: max(min_rounds, min(max_rounds, int(share / cost))) for name, cost in costs.items()}
    rounds = min_rounds * 2 ** int(math.log2(max(turns.values()) / min_rounds))
    return rounds, {name: 2 ** max(0, int(math.log2(rounds / wanted))) for name, wanted in turns.items()}


def time_rounds(
    contestants: Mapping[str, Contestant],
    estimates: Mapping[str, float],
    seconds: float,
    sample_seconds: float = 2e-3,
    **limits: int,
) -> list[dict[str, float]]:
    """Let all take turns; return the seconds per run of those that took part, for every round.

    A turn lasts at least about ``sample_seconds``: fast contestants run several times in it. Each round has an order
    of its own, so that none always follows the same one, whose memory may still be in the caches. All must have run
    before (the first run is slower).

    Args:
        contestants: who, by name.
        estimates: seconds that one run of each takes, roughly.
        seconds: for all turns together, as in :func:`plan_strides`.
        sample_seconds: the length of a turn, at least.
        limits: ``min_rounds`` and ``max_rounds`` of :func:`plan_strides`.
    """
    repeats = {name: max(1, math.ceil(sample_seconds / estimates[name])) for name in contestants}
    rounds, strides = plan_strides(
        {name: estimates[name] * count for name, count in repeats.items()}, seconds, **limits
    )
    shuffle = random.Random(0).sample
    names = list(contestants)
    found = []
    for turn in range(rounds):
        times = {}
        for name in shuffle(names, len(names)):
            if turn % strides[name] == 0:
                times[name] = _time_turn(contestants[name], repeats[name])
        found.append(times)
    return found


def _time_turn(contestant: Contestant, repeats: int) -> float:
    contestant.prepare()
    run = contestant.run
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats * contestant.work_ratio


def round_ratios(rounds: Sequence[Mapping[str, float]], name: str, base: str) -> list[float]:
    """Return the time of ``name`` over that of ``base`` for each round that both took part in."""
    return [times[name] / times[base] for times in rounds if name in times and base in times]


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean: the right one for ratios."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def summarize(values: Sequence[float], scale: float = 1.0) -> dict[str, float | int]:
    """Return the median, the 20 % and 80 % quantiles (all times ``scale``) and the number of values."""
    if len(values) > 1:
        fifths = statistics.quantiles(values, n=5, method="inclusive")
        low, high = fifths[0], fifths[-1]
    else:
        low = high = values[0]
    median = statistics.median(values)
    return {"median": median * scale, "q20": low * scale, "q80": high * scale, "rounds": len(values)}


def peak_memory_bytes() -> int:
    """Return the largest resident size this process ever had."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def reset_peak_memory() -> None:
    """Give free memory back to the system, and let :func:`peak_memory_bytes` count from what is in use now.

    Without it a peak of the past (an import, inputs being made) and free pages of the allocator hide what comes next.
    """
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment of a fresh process with a number of threads."""
    settings = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    # Paddle and PyTorch each bring an OpenMP runtime whose idle threads keep spinning for a while: with two threads on
    # two cores one contestant's would take the other's time (ten times, measured). Idle threads sleep instead, for all.
    settings |= {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "0"}
    return {**os.environ, **settings, "GLOG_minloglevel": "2"}


def run_worker(script: str, arguments: Sequence[str], threads: int) -> Any:
    """Run ``script`` in a fresh process with a number of threads; return the JSON of its last line.

    Raises:
        RuntimeError: it failed; the message is what it wrote to stderr.
    """
    result = subprocess.run(
        [sys.executable, script, *arguments],
        capture_output=True,
        text=True,
        env=worker_environment(threads),
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"{script} {' '.join(arguments)} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def is_installed(module: str) -> bool:
    """Whether a module can be imported; says so on stderr if not."""
    if importlib.util.find_spec(module) is not None:
        return True
    print(f"skipped: {module} is not installed (pip install 'paddle_infra[bench]')", file=sys.stderr)
    return False


def device_name() -> str:
    """Return the processor's name."""
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({len(os.sched_getaffinity(0))} cores)"


def context() -> dict[str, str]:
    """Return what must be known to repeat a measurement: commit, date, device, versions."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    name = commit.stdout.strip() or "unknown"
    installed = []
    for library in _LIBRARIES:
        try:
            installed.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "commit": name + ("+changes" if changes.stdout.strip() else ""),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"),
        "device": device_name(),
        "python": platform.python_version(),
        "versions": ", ".join(installed),
    }


def append_rows(
    name: str, rows: Sequence[Mapping[str, Any]], measured_in: Mapping[str, str] | None = None
) -> Path:
    """Append rows, each completed by :func:`context`, to ``benchmarks/data/<name>.csv`` and return its path.

    Args:
        name: of the file.
        rows: all with the same columns.
        measured_in: the context of a run that appends several times; None: the context of now.

    Raises:
        ValueError: the file has other columns; nothing is written.
    """
    path = DATA / f"{name}.csv"
    common = context() if measured_in is None else measured_in
    completed = [{**row, **common} for row in rows]
    columns = list(completed[0])
    is_new = not path.exists()
    if not is_new:
        with open(path, newline="") as file:
            found = next(csv.reader(file))
        if found != columns:
            raise ValueError(f"{path}: expected the columns {columns}, found {found}; move the old file away")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if is_new:
            writer.writeheader()
        writer.writerows(completed)
    return path
