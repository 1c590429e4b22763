"""How long does saving a checkpoint stop training, in the foreground and in the background?

    python benchmarks/bench_checkpoint.py
    python benchmarks/bench_checkpoint.py --no-record --saves 2 --rounds 1

The state is that of MiniLM-L6 with AdamW: weights and two moments of each. A stall is the time in ``Checkpoint.save``;
what writing in the background takes from the training is in the time of the step after it, beside that of the others.
The two ways take turns, each run in a process of its own, which also gives the peak memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import append_rows, peak_memory_bytes, run_worker, summarize

EVERY = 8  # steps between two saves: longer than writing takes, else the next save waits for the one before


def worker(asynchronous: bool, saves: int) -> dict[str, Any]:
    """Train with saves; return the stalls in seconds, the peak memory and the size of a checkpoint."""
    import numpy as np

    from benchmarks._encoder_contestants import make_config
    from paddle_infra._core.runtime import tune_cpu
    from paddle_infra.models import BertForSequenceClassification
    from paddle_infra.train import Callback, Checkpoint, Trainer, adamw, checkpoints_in

    class Clock(Callback):
        """Notes how long the steps take, without the callbacks after them."""

        def __init__(self) -> None:
            self.steps: list[float] = []

        def on_step_begin(self, trainer: Trainer) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, trainer: Trainer) -> None:
            self.steps.append(time.perf_counter() - self.began)

    class TimedCheckpoint(Checkpoint):
        """Notes how long training waits for each save."""

        def save(self, trainer: Trainer) -> Path:
            began = time.perf_counter()
            path = super().save(trainer)
            stalls.append(time.perf_counter() - began)
            return path

    def step(network: Any, inputs: Any) -> Any:
        import paddle

        return paddle.nn.functional.cross_entropy(network(inputs["input_ids"]), inputs["labels"])

    tune_cpu()
    model = BertForSequenceClassification(dataclasses.replace(make_config("MiniLM-L6"), labels=("no", "yes")))
    random = np.random.default_rng(0)
    batch = {"input_ids": random.integers(1000, 30000, size=(8, 64)), "labels": np.zeros(8, "int64")}
    clock = Clock()
    stalls: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = TimedCheckpoint(
            folder, every_steps=EVERY, every_epoch=False, keep_last=1, asynchronous=asynchronous
        )
        trainer = Trainer(model, adamw(model, 1e-5, schedule="constant"), step, callbacks=[checkpoint, clock])
        trainer.fit([batch] * (EVERY * (saves + 1)), max_epochs=1)
        size = sum(path.stat().st_size for path in checkpoints_in(folder)[-1].iterdir())
    # The first save also makes what later ones find ready: it is not counted, nor is the call at the end of the run,
    # which finds its step saved.
    counted = [t for i, t in enumerate(clock.steps, 1) if i > EVERY]
    after = [t for i, t in enumerate(counted, 1) if i % EVERY == 1]
    plain = [t for i, t in enumerate(counted, 1) if i % EVERY != 1]
    return {
        "stalls": stalls[1 : saves + 1],
        "step": statistics.median(plain),
        "step_after": statistics.median(after),
        "peak": peak_memory_bytes(),
        "size": size,
    }


def main() -> None:
    """Measure, print, append the rows to ``benchmarks/data/checkpoint.csv``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", type=int, default=5, help="counted saves of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-record", action="store_true", help="only print, append nothing")
    parser.add_argument("--worker", choices=["foreground", "background"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        import json

        print(json.dumps(worker(options.worker == "background", options.saves)))
        return
    found: dict[str, list[dict[str, Any]]] = {"foreground": [], "background": []}
    for _ in range(options.rounds):
        for way, runs in found.items():
            arguments = ["--worker", way, "--saves", str(options.saves)]
            runs.append(run_worker(__file__, arguments, options.threads))
    rows = []
    for way, runs in found.items():
        stall = summarize([t for run in runs for t in run["stalls"]], 1e3)
        rows.append({
            "model": "MiniLM-L6", "way": way, "threads": options.threads,
            "size_mb": round(runs[0]["size"] / 1e6, 1), "step_ms": statistics.median(run["step"] for run in runs) * 1e3,
            "step_after_ms": statistics.median(run["step_after"] for run in runs) * 1e3,
            "median_ms": stall["median"], "q20_ms": stall["q20"], "q80_ms": stall["q80"], "saves": stall["rounds"],
            "peak_mb": statistics.median(run["peak"] for run in runs) / 1e6,
        })  # fmt: skip
        print(rows[-1])
    if not options.no_record:
        print(append_rows("checkpoint", rows))


if __name__ == "__main__":
    main()
