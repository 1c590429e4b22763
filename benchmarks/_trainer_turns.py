"""Lets training loops in different processes, and in different environments, take turns.

Every contestant trains once, from the first step to the last. Its loader, which no loop can go on without, gives out
the batches of a turn and then waits for the next turn; the time from the first batch asked for to the first one too
many is that of so many whole steps, also for a loop that fetches a batch ahead. Waiting is not timed, and nothing of a
loop is changed. Only the standard library and NumPy are imported here: the environments have nothing else in common.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks._harness import ROOT, peak_memory_bytes, reset_peak_memory, worker_environment

WORKER = str(ROOT / "benchmarks/_trainer_worker.py")
PEAK_RATE, WEIGHT_DECAY, MAX_NORM = 1e-3, 0.01, 1.0  # of every contestant's optimizer
SAVE_EVERY = 1000  # steps between two checkpoints of the contestant with callbacks


class Workload(NamedTuple):
    """What is trained, and how its steps are spread over the turns."""

    name: str
    batch: int
    length: int  # tokens of a sequence, or features of a sample
    rounds: int
    steps_per_turn: int
    warmup_steps: int  # a first turn that is not counted

    @property
    def total_steps(self) -> int:
        """Steps of the whole run: one more than those of all turns, which need not be the last to be timed."""
        return sum(self.turns) + 1

    @property
    def turns(self) -> list[int]:
        """Steps of every turn, the warm-up first."""
        return [self.warmup_steps] + [self.steps_per_turn] * self.rounds


def make_batches(workload: Workload, count: int = 8) -> list[dict[str, np.ndarray]]:
    """Return different batches, the same in every process; runs go through them again and again."""
    generator = np.random.default_rng(0)
    shape = (workload.batch, workload.length)
    batches = []
    for _ in range(count):
        labels = generator.integers(0, 2, workload.batch)
        if workload.name == "tiny":
            inputs = {"inputs": generator.normal(size=shape).astype("float32")}
        else:
            ids = generator.integers(1000, 30000, shape)
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        batches.append({**inputs, "labels": labels})
    return batches


class TurnLoader:
    """An epoch of batches, given out in turns.

    Args:
        workload: how many steps there are, and in which turns.
        begin: blocks until the turn may begin.
        end: is told the seconds of the turn.
        convert: makes of a NumPy batch what the loop wants: part of the time.
    """

    def __init__(
        self,
        workload: Workload,
        begin: Callable[[], None],
        end: Callable[[float], None],
        convert: Callable[[dict[str, np.ndarray]], Any] = lambda batch: batch,
    ) -> None:
        self._workload, self._begin, self._end, self._convert = workload, begin, end, convert
        self._batches = make_batches(workload)

    def __len__(self) -> int:
        return self._workload.total_steps

    def __iter__(self) -> Iterator[Any]:
        step = 0
        for steps in self._workload.turns:
            self._begin()
            start = time.perf_counter()
            for _ in range(steps):
                yield self._convert(self._batches[step % len(self._batches)])
                step += 1
            self._end(time.perf_counter() - start)
        # A loop that knows its number of steps does not ask for a batch too many: this is the one.
        yield self._convert(self._batches[step % len(self._batches)])


class Channel:
    """The worker's end: replies go to what was standard output; whatever a library prints goes to standard error."""

    def __init__(self) -> None:
        self._replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def send(self, reply: Mapping[str, Any]) -> None:
        """Send one line."""
        print(json.dumps(reply), file=self._replies, flush=True)

    def wait(self) -> None:
        """Tell that everything is ready for a turn, and wait for it."""
        self.send({"is_ready": True})
        if not sys.stdin.readline():
            sys.exit("the benchmark has ended before this worker")


def serve(
    channel: Channel, workload: Workload, train: Callable[[Callable[..., TurnLoader]], np.ndarray]
) -> None:
    """Train one workload turn by turn, then send the final weights (if few) and the peak memory.

    Args:
        channel: to the benchmark.
        workload: what to train.
        train: ``train(make_loader)`` trains and returns the final weights in one vector.
    """
    reset_peak_memory()
    before = peak_memory_bytes()

    def make_loader(convert: Callable[[Any], Any] = lambda batch: batch) -> TurnLoader:
        return TurnLoader(workload, channel.wait, lambda seconds: channel.send({"seconds": seconds}), convert)

    weights = train(make_loader)
    channel.send({
        "peak_bytes": peak_memory_bytes() - before,
        "weights": weights.tolist() if weights.size <= 1000 else [float(np.abs(weights).mean())],
    })  # fmt: skip


class Worker:
    """The benchmark's end: one contestant's process.

    Args:
        python: interpreter of the contestant's environment.
        task: what :mod:`benchmarks._trainer_worker` is to do.
        threads: number of threads.
    """

    def __init__(self, python: Path, task: Mapping[str, Any], threads: int) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open until `close`
        self._name = task["contestant"]
        self._process = subprocess.Popen(
            [str(python), WORKER, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=worker_environment(threads),
        )

    def receive(self, key: str) -> Any:
        """Return the next reply's value of that name.

        Raises:
            RuntimeError: the worker has ended, or says something else.
        """
        return self.receive_all(key)[key]

    def receive_all(self, key: str = "weights") -> dict[str, Any]:
        """Return the next reply, which has a value of that name: by default the last one of a workload.

        Raises:
            RuntimeError: as above.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {}
        if key not in reply:
            self._log.seek(0)
            raise RuntimeError(
                f"{self._name}: expected {key}, got {line.strip()[:200]!r}:\n{self._log.read()[-4000:]}"
            )
        return reply

    def take_turn(self) -> float:
        """Let it train for a turn; return the seconds."""
        assert self._process.stdin is not None
        self.receive("is_ready")
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.receive("seconds")

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.communicate()
        self._log.close()
