"""What a Trainer's loop costs over a loop written by hand: this package, paddle.Model, PaddleNLP, PyTorch's trainers.

    make bench-trainer                              # makes the environments of the others, measures, writes the report
    python benchmarks/bench_trainer.py --quick --no-record

Each contestant trains in a process (and environment) of its own; the processes take turns, in another order each round,
and a figure is compared with that of the hand-written loop of the same framework, with the same model, optimizer and
data, in the same round. MiniLM-L6 gives the ratio that a user sees; on a linear layer with two outputs, where a step is
little more than the calls themselves, what a loop adds to a step is seen in microseconds. The linear layers of all must
have the same weights in the end. Rows are appended to ``benchmarks/data/trainer.csv``.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from benchmarks._harness import ROOT, append_rows, context, round_ratios, summarize
from benchmarks._trainer_turns import Worker, Workload

# A turn of the tiny one lasts about 50 ms; a step of MiniLM takes 0.3 to 2 s.
TINY = Workload("tiny", 8, 16, rounds=30, steps_per_turn=100, warmup_steps=100)
MINILM = Workload("MiniLM-L6", 16, 128, rounds=21, steps_per_turn=1, warmup_steps=2)
QUICK = (TINY._replace(rounds=3), MINILM._replace(batch=2, length=16, rounds=3))
WEIGHT_TOLERANCE = 1e-4  # weights of about 1, after thousands of steps in float32 in different orders


class Contestant(NamedTuple):
    """A loop, and where it runs."""

    framework: str  # "paddle" or "torch"
    environment: Path | None  # None: that of the benchmark
    base: str | None  # the loop it is compared with
    libraries: tuple[str, ...]


_PADDLENLP, _TORCH = ROOT / ".venv-paddlenlp", ROOT / ".venv-torch-trainers"
CONTESTANTS = {
    "paddle-loop": Contestant("paddle", None, None, ("paddlepaddle",)),
    "paddle_infra": Contestant("paddle", None, "paddle-loop", ("paddlepaddle",)),
    "paddle_infra-callbacks": Contestant("paddle", None, "paddle-loop", ("paddlepaddle",)),
    "paddle-model": Contestant("paddle", None, "paddle-loop", ("paddlepaddle",)),
    "paddlenlp-loop": Contestant("paddle", _PADDLENLP, None, ("paddlepaddle",)),
    "paddlenlp": Contestant("paddle", _PADDLENLP, "paddlenlp-loop", ("paddlenlp", "paddlepaddle")),
    "torch-loop": Contestant("torch", _TORCH, None, ("torch",)),
    "transformers": Contestant("torch", _TORCH, "torch-loop", ("transformers", "accelerate", "torch")),
    "lightning": Contestant("torch", _TORCH, "torch-loop", ("lightning", "torch")),
}


def python_of(contestant: Contestant) -> Path:
    """Return the interpreter of its environment."""
    if contestant.environment is None:
        return Path(sys.executable)
    return contestant.environment / "bin/python"


def available(names: Sequence[str]) -> list[str]:
    """Leave out those whose environment has not been made, and say so."""
    missing = sorted(
        {
            path.name
            for name in names
            if (path := CONTESTANTS[name].environment) and not (path / "bin/python").exists()
        }
    )
    for folder in missing:
        skipped = [name for name in names if (path := CONTESTANTS[name].environment) and path.name == folder]
        print(
            f"skipped: {', '.join(skipped)}: no {folder} (make bench-trainer makes it)",
            file=sys.stderr,
        )
    return [
        name
        for name in names
        if (path := CONTESTANTS[name].environment) is None or (path / "bin/python").exists()
    ]


def take_turns(workers: Mapping[str, Worker], workload: Workload) -> list[dict[str, float]]:
    """Train all of them, turn by turn; return the seconds per step of every round."""
    shuffled = random.Random(0).sample
    names = list(workers)
    rounds = []
    for steps in workload.turns:
        order = shuffled(names, len(names))
        rounds.append({name: workers[name].take_turn() / steps for name in order})
    return rounds[1:]


def check_weights(found: Mapping[str, Sequence[float]]) -> None:
    """Hold the final weights of all to those of the first.

    Raises:
        RuntimeError: somebody's differ: not the same steps were made.
    """
    first = next(iter(found))
    for name, weights in found.items():
        error = float(np.abs(np.subtract(weights, found[first])).max())
        if not error <= WEIGHT_TOLERANCE:
            raise RuntimeError(
                f"{name}: expected the weights of {first} within {WEIGHT_TOLERANCE:.0e}, got {error:.1e}"
            )


def rows_of(
    workload: Workload,
    threads: int,
    rounds: Sequence[Mapping[str, float]],
    peaks: Mapping[str, float],
    libraries: Mapping[str, str],
) -> list[dict[str, Any]]:
    """One row for each contestant."""
    rows = []
    for name in [name for name in CONTESTANTS if name in peaks]:
        base = CONTESTANTS[name].base
        times = summarize([turn[name] for turn in rounds], 1e3)
        row = {"workload": workload.name, "batch": workload.batch, "length": workload.length}
        row |= {"threads": threads, "contestant": name, "steps_per_turn": workload.steps_per_turn}
        row |= {f"{key}_ms": times[key] for key in ("median", "q20", "q80")} | {"rounds": times["rounds"]}
        row |= {"base": base or ""} | dict.fromkeys(_COMPARED, "")
        if base is not None:
            ratios = summarize(round_ratios(rounds, name, base))
            added = summarize([turn[name] - turn[base] for turn in rounds], 1e6)
            row |= {"ratio": ratios["median"], "ratio_q20": ratios["q20"], "ratio_q80": ratios["q80"]}
            row |= {"added_us": added["median"], "added_us_q20": added["q20"], "added_us_q80": added["q80"]}
        rows.append({**row, "peak_mb": 1e-6 * peaks[name], "libraries": libraries[name]})
    return rows


_COMPARED = ("ratio", "ratio_q20", "ratio_q80", "added_us", "added_us_q20", "added_us_q80")


def measure(names: Sequence[str], workloads: Sequence[Workload], threads: int) -> list[dict[str, Any]]:
    """Start everyone, let them train every workload, return the rows."""
    workers: dict[str, Worker] = {}
    try:
        for name in names:
            contestant = CONTESTANTS[name]
            task = {"contestant": name, "framework": contestant.framework, "threads": threads}
            task |= {"workloads": workloads, "libraries": contestant.libraries}
            workers[name] = Worker(python_of(contestant), task, threads)
        libraries = {name: worker.receive("libraries") for name, worker in workers.items()}
        rows = []
        for workload in workloads:
            rounds = take_turns(workers, workload)
            ends = {name: worker.receive_all() for name, worker in workers.items()}
            if workload.name == "tiny":
                check_weights({name: end["weights"] for name, end in ends.items()})
            peaks = {name: end["peak_bytes"] for name, end in ends.items()}
            rows += rows_of(workload, threads, rounds, peaks, libraries)
        return rows
    finally:
        for worker in workers.values():
            worker.close()


def report(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows."""
    for row in rows:
        compared = ""
        if row["base"]:
            compared = (
                f"{row['ratio']:7.4f} ({row['ratio_q20']:.4f} to {row['ratio_q80']:.4f}) x {row['base']}"
            )
            compared += (
                f", {row['added_us']:+.0f} us ({row['added_us_q20']:+.0f} to {row['added_us_q80']:+.0f})"
            )
        print(
            f"{row['workload']:10} T{row['threads']} {row['contestant']:23} {row['median_ms']:9.3f} ms "
            f"{row['peak_mb']:7.1f} MB {compared}"
        )
    sys.stdout.flush()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and small steps: does everything run?")
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores}))
    parser.add_argument("--no-record", action="store_true", help="only print, append nothing")
    arguments = parser.parse_args()
    if arguments.quick and not arguments.no_record:
        parser.error("--quick measures nothing worth keeping: use it with --no-record")
    measured_in = context()
    bases = [CONTESTANTS[name].base for name in arguments.contestants]
    wanted = [name for name in CONTESTANTS if name in arguments.contestants or name in bases]
    for threads in arguments.threads:
        rows = measure(available(wanted), QUICK if arguments.quick else (TINY, MINILM), threads)
        report(rows)
        if not arguments.no_record:
            append_rows("trainer", rows, measured_in)


if __name__ == "__main__":
    main()
