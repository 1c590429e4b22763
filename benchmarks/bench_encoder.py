"""Whole encoders: inference and steps of training against Paddle, PyTorch, ONNX Runtime and OpenVINO.

    python benchmarks/bench_encoder.py --quick
    python benchmarks/bench_encoder.py --threads 2 --models MiniLM-L6

Contestants have identical weights, run in one process and take turns. A step of training is forward, backward and
AdamW, with dropout 0.1. Rows are appended to ``benchmarks/data/encoder.csv``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import _encoder_contestants as encoder
from benchmarks._encoder_contestants import Case
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

WORKER = str(ROOT / "benchmarks/bench_encoder.py")
AS_INSTALLED = "paddle-as-installed"
CASES = ((1, 128, "inference"), (32, 128, "inference"), (16, 128, "training"))


def prepared(
    case: Case, names: list[str], exported: str, threads: int, is_tuned: bool
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the contestants, run and compared, and the seconds that a run of each takes."""
    import paddle_infra as pi

    if is_tuned:
        pi.tune_cpu(threads)
    model = encoder.make_model(case.model)
    contestants = {name: encoder.contestant(name, case, model, exported, threads) for name in names}
    estimates, found = {}, {}
    for name, entry in contestants.items():
        for _ in range(2):
            entry.prepare()
            start = time.perf_counter()
            result = entry.run()
            estimates[name] = time.perf_counter() - start
        found[name] = entry.results(result)
    if case.work == "inference" and (problems := encoder.disagreements(found)):
        raise RuntimeError("the contestants disagree: " + "; ".join(problems))
    return contestants, estimates


def worker(task: dict[str, Any]) -> None:
    """Time all contestants, or measure the peak memory of one; print JSON."""
    case = Case(*task["case"])
    contestants, estimates = prepared(
        case, task["names"], task["exported"], task["threads"], task.get("is_tuned", True)
    )
    if task["task"] == "time":
        print(json.dumps(time_rounds(contestants, estimates, task["seconds"])))
        return
    entry = contestants[task["names"][0]]
    reset_peak_memory()
    before = peak_memory_bytes()
    entry.run()
    print(json.dumps(peak_memory_bytes() - before))


def base_of(name: str) -> str | None:
    """Return the contestant of ours whose time a contestant's is divided by."""
    if name == "fused":
        return None
    return "fused-medium" if name in encoder.MULTIPLIES_IN_BFLOAT16 and name not in encoder.OURS else "fused"


def time_rows(case: Case, threads: int, rounds: list[dict[str, float]]) -> list[dict[str, Any]]:
    """One row for each contestant. Plain Paddle is compared with both of ours."""
    rows = []
    for name in sorted({name for turn in rounds for name in turn}):
        times = summarize([turn[name] for turn in rounds if name in turn], 1e3)
        bases = [base_of(name)] + (["fused-medium"] if name in encoder.PADDLE else [])
        for base in bases:
            row = {**case._asdict(), "contestant": name, "threads": threads}
            row |= {f"{key}_ms": times[key] for key in ("median", "q20", "q80")} | {"rounds": times["rounds"]}
            row |= {"base": base or "", "ratio": "", "ratio_q20": "", "ratio_q80": "", "peak_mb": ""}
            if base is not None:
                ratios = summarize(round_ratios(rounds, name, base))
                row |= {"ratio": ratios["median"], "ratio_q20": ratios["q20"], "ratio_q80": ratios["q80"]}
            rows.append(row)
    return rows


def rows_as_installed(case: Case, task: dict[str, Any]) -> list[dict[str, Any]]:
    """Paddle as users find it, without ``tune_cpu``, which holds for a whole process: so in one of its own."""
    task = {**task, "task": "time", "names": [*encoder.OURS, *encoder.PADDLE], "is_tuned": False}
    rows = time_rows(case, task["threads"], run_worker(WORKER, [json.dumps(task)], task["threads"]))
    renamed = {"paddle": AS_INSTALLED, "paddle-no-stride": f"{AS_INSTALLED}-no-stride"}
    return [{**row, "contestant": renamed[row["contestant"]]} for row in rows if row["contestant"] in renamed]


def export(model: str, folder: Path) -> str:
    """Export the model to ONNX, for the engines."""
    import paddle_infra as pi

    inputs = encoder.make_inputs(Case(model, 2, 16, "inference"))
    axes = {name: {0: "batch", 1: "length"} for name in inputs}
    layer = encoder.make_model(model)
    pi.export.to_onnx(layer, folder / model, inputs, dynamic_axes=axes, output_names=["hidden"], atol=1e-3)
    return str(folder / model)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and append."""
    measured_in = context()
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            exported = export(model, Path(folder))
            for size in CASES:
                case = Case(model, *size)
                names = encoder.available(encoder.TRAINING if case.work == "training" else encoder.INFERENCE)
                for threads in arguments.threads:
                    task = {
                        "case": case,
                        "exported": exported,
                        "threads": threads,
                        "seconds": arguments.seconds,
                    }
                    rounds = run_worker(
                        WORKER, [json.dumps({**task, "task": "time", "names": names})], threads
                    )
                    rows = time_rows(case, threads, rounds) + rows_as_installed(case, task)
                    if threads == max(arguments.threads):
                        for row in rows:
                            memory = {**task, "task": "memory", "names": [row["contestant"]]}
                            is_first = not row["base"] or row["base"] == base_of(row["contestant"])
                            if is_first and not row["contestant"].startswith(AS_INSTALLED):
                                row["peak_mb"] = 1e-6 * run_worker(WORKER, [json.dumps(memory)], threads)
                    report(case, rows)
                    if not arguments.no_record:
                        append_rows("encoder", rows, measured_in)


def report(case: Case, rows: list[dict[str, Any]]) -> None:
    """Print the rows."""
    for row in rows:
        ratio = f"{row['ratio']:6.2f} x {row['base']}" if row["base"] else ""
        peak = f"{row['peak_mb']:8.1f} MB" if row["peak_mb"] != "" else ""
        print(
            f"{case!s:28} T{row['threads']} {row['contestant']:18} {row['median_ms']:9.2f} ms {ratio} {peak}"
        )
    sys.stdout.flush()


def main() -> None:
    """Run from the command line."""
    if len(sys.argv) > 1 and sys.argv[1].startswith("{"):
        worker(json.loads(sys.argv[1]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small model, about two minutes")
    parser.add_argument("--models", nargs="+", choices=list(encoder.SIZES), default=None)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores}))
    parser.add_argument("--no-record", action="store_true", help="only print, append nothing")
    arguments = parser.parse_args()
    arguments.models = arguments.models or (["MiniLM-L6"] if arguments.quick else list(encoder.SIZES))
    arguments.seconds = 3.0 if arguments.quick else 10.0
    run(arguments)


if __name__ == "__main__":
    main()
