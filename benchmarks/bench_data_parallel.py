"""Trains MiniLM-L6 in one process and in two, on the same batches: how much faster are two?

    python benchmarks/bench_data_parallel.py                 # 1 and 2 processes of one thread each
    python benchmarks/bench_data_parallel.py --no-record --batch 4 --length 16 --steps 2 --rounds 1

Strong scaling: the sequences of a step are the same, divided over the processes. A step is one of the Trainer: forward,
backward, sum over processes, clipping, AdamW. Processes are launched in turn, round by round, by
``paddle.distributed.launch``; the median over the steps of all rounds counts, of the slowest process (a step ends when
all have their sums). The first two steps of a launch are not counted. Memory is what the resident set of a process has
grown by at most since the imports, of the process that grew most.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import ROOT, append_rows, peak_memory_bytes, summarize

STRATEGIES = ("parallel", "overlap", "sharding", "sharding-2", "sharding-3")
UNCOUNTED = 2


class RandomBatches:
    """Batches of random tokens, the same for every number of processes."""

    def __init__(self, batches: int, size: int, length: int) -> None:
        self.batches, self.size, self.length = batches, size, length

    def __len__(self) -> int:
        """Return the number of batches of all processes."""
        return self.batches

    def iterate(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[dict[str, np.ndarray]]:
        """Yield every ``step``-th batch from ``start`` on."""
        for index in range(start, self.batches, step):
            generator = np.random.default_rng([epoch, index])
            yield {
                "input_ids": generator.integers(1000, 30000, (self.size, self.length)),
                "labels": generator.integers(2, size=self.size),
            }


def worker(strategy: str, batch: int, length: int, steps: int, output: Path) -> None:
    """Train as one of the processes of a launch; number 0 writes the seconds of each step."""
    import paddle

    from benchmarks._encoder_contestants import make_config
    from paddle_infra.models import BertForSequenceClassification
    from paddle_infra.train import Callback, DataParallel, Sharding, Trainer, adamw, seed_everything

    class Clock(Callback):
        """Notes when steps begin and end."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, trainer: Trainer) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, trainer: Trainer) -> None:
            self.seconds.append(time.perf_counter() - self.start)

    def training_step(model: paddle.nn.Layer, inputs: dict[str, paddle.Tensor]) -> paddle.Tensor:
        return paddle.nn.functional.cross_entropy(model(inputs["input_ids"]), inputs["labels"])

    seed_everything(0)
    before_mb = peak_memory_bytes() / 2**20
    made = {
        "parallel": DataParallel,
        "overlap": lambda: DataParallel(overlap=True),
        "sharding": Sharding,
        "sharding-2": lambda: Sharding(2),
        "sharding-3": lambda: Sharding(3),
    }[strategy]()
    model = BertForSequenceClassification(dataclasses.replace(make_config("MiniLM-L6"), labels=("no", "yes")))
    clock = Clock()
    optimizer = adamw(model, 1e-5, schedule="constant")
    trainer = Trainer(model, optimizer, training_step, strategy=made, callbacks=[clock])
    count = UNCOUNTED + steps
    loader = RandomBatches(count * made.ranks, batch // made.ranks, length)
    trainer.fit(loader, max_steps=count)
    grown_mb = peak_memory_bytes() / 2**20 - before_mb
    grown_mb = max(made.gather(grown_mb))
    if made.rank == 0:
        output.write_text(json.dumps({"seconds": clock.seconds[UNCOUNTED:], "peak_mb": grown_mb}))


def launch(processes: int, strategy: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of the steps of one launch, and the memory of the process that grew most."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "seconds.json"
        command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
        command += ["--log_dir", folder, __file__, "--worker", str(output), "--strategies", strategy]
        command += [
            "--batch",
            str(options.batch),
            "--length",
            str(options.length),
            "--steps",
            str(options.steps),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            logs = "\n".join(path.read_text() for path in sorted(Path(folder).glob("workerlog.*")))
            raise SystemExit(f"{processes} processes, {strategy}: exit code {done.returncode}\n{logs}")
        return dict(json.loads(output.read_text()))


def main() -> None:
    """Measure, print the speed-up, append the rows to ``benchmarks/data/data_parallel.csv``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--batch", type=int, default=32, help="sequences of a step, of all processes together"
    )
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="counted steps of a launch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--no-record", action="store_true", help="only print, append nothing")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        worker(options.strategies[0], options.batch, options.length, options.steps, options.worker)
        return
    if any(options.batch % processes for processes in options.processes):
        parser.error(f"--batch: expected a multiple of {options.processes}, got {options.batch}")
    os.environ["OMP_NUM_THREADS"] = "1"
    times: dict[tuple[int, str], list[float]] = {}
    peaks: dict[tuple[int, str], list[float]] = {}
    for _ in range(options.rounds):
        for processes in options.processes:
            for strategy in options.strategies if processes > 1 else options.strategies[:1]:
                found = launch(processes, strategy, options)
                times.setdefault((processes, strategy), []).extend(found["seconds"])
                peaks.setdefault((processes, strategy), []).append(found["peak_mb"])
    alone = next((float(np.median(found)) for (count, _), found in times.items() if count == 1), None)
    rows: list[dict[str, Any]] = []
    for (processes, strategy), seconds in times.items():
        found_ms = summarize(seconds, 1e3)
        median = found_ms["median"] / 1e3
        rows.append({"model": "MiniLM-L6", "batch": options.batch, "length": options.length,
                     "processes": processes, "threads": 1, "strategy": "none" if processes == 1 else strategy,
                     "median_ms": found_ms["median"], "q20_ms": found_ms["q20"], "q80_ms": found_ms["q80"],
                     "steps": found_ms["rounds"], "sequences_per_second": options.batch / median,
                     "peak_mb": float(np.median(peaks[processes, strategy]))})  # fmt: skip
        gain = "" if alone is None else f", {alone / median:.2f} times as fast as one process"
        print(
            f"{processes} processes ({rows[-1]['strategy']}): {1e3 * median:.1f} ms per step{gain}, "
            f"{rows[-1]['peak_mb']:.0f} MB"
        )
    if not options.no_record:
        print(append_rows("data_parallel", rows))


if __name__ == "__main__":
    main()
