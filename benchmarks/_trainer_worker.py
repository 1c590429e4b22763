"""Trains as one contestant, turn by turn: run by bench_trainer.py with the Python of the contestant's environment."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._trainer_turns import Channel, Workload, serve


def main() -> None:
    """Do what the task on the command line says."""
    task = json.loads(sys.argv[1])
    channel = Channel()
    if task["framework"] == "paddle":
        from benchmarks import _trainer_paddle as contestants
    else:
        from benchmarks import _trainer_torch as contestants
    contestants.set_threads(task["threads"])
    channel.send(
        {"libraries": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in task["libraries"])}
    )
    for values in task["workloads"]:
        workload = Workload(*values)
        with tempfile.TemporaryDirectory() as folder:
            train = contestants.CONTESTANTS[task["contestant"]]
            serve(channel, workload, partial(train, workload, Path(folder)))


if __name__ == "__main__":
    main()
