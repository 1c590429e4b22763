"""A worker of a shared search, in a process of its own.

``python -m tests.train.search_worker STORAGE LOG --trials 8``: appends a line ``started <number> <origin> <x>`` and
later ``ended <number> <origin> <x>`` to LOG for each trial.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path
from typing import Any

from paddle_infra.train import FloatRange, Report, SearchStorage, search


def append(log: Path, line: str) -> None:
    with open(log, "a", encoding="utf-8") as file:  # one short write to a file opened for appending is atomic
        file.write(line + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("storage")
    parser.add_argument("log", type=Path)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--kill-at", type=int, default=-1, help="trial that is killed in the middle")
    parser.add_argument(
        "--wait", type=int, default=1, help="start when the log has so many lines that say ready"
    )
    options = parser.parse_args()

    def objective(parameters: dict[str, Any], report: Report) -> float:
        x = parameters["x"]
        append(options.log, f"started {report.number} {report.origin} {x!r}")
        report(x)
        if report.number == options.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        append(options.log, f"ended {report.number} {report.origin} {x!r}")
        return -((x - 0.3) ** 2)

    append(options.log, "ready")
    while options.log.read_text(encoding="utf-8").count("ready") < options.wait:
        time.sleep(0.01)
    storage = SearchStorage(options.storage, heartbeat_s=1)
    search(objective, {"x": FloatRange(0.0, 1.0)}, trials=options.trials, storage=storage, seed=5)


if __name__ == "__main__":
    main()
