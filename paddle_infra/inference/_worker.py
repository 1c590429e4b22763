"""Times one engine in its own process, from files: ``python -m paddle_infra.inference._worker FOLDER``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from paddle_infra._core.errors import PaddleInfraError
from paddle_infra.export._arrays import load_arrays, save_arrays
from paddle_infra.export._process import PROGRESS, REQUEST, RESULT, inputs_file, outputs_file
from paddle_infra.export.manifest import read_manifest
from paddle_infra.inference.backends import Export, Settings, open_engines


def resident_mb() -> float | None:
    """Return the memory of this process in 2^20 bytes, or None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def measure(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Open the engine, run and time every case."""
    cases = [load_arrays(inputs_file(folder, index)) for index in range(request["cases"])]
    export = Export(Path(request["export"]), read_manifest(request["export"]))
    before = resident_mb()
    engine = open_engines(request["backend"], export, Settings(**request["settings"]))[0]
    found = []
    for index, inputs in enumerate(cases):
        sizes = [list(array.shape) for array in inputs.values()]
        (folder / PROGRESS).write_text(f"running inputs of {sizes}", encoding="utf-8")
        save_arrays(outputs_file(folder, index), engine.run(inputs))
        for _ in range(request["warmup"]):
            engine.run(inputs)
        times = []
        for _ in range(request["repeats"]):
            start = time.perf_counter()
            engine.run(inputs)
            times.append((time.perf_counter() - start) * 1e3)
        after = resident_mb()
        memory = None if before is None or after is None else after - before
        found.append({"times_ms": times, "memory_mb": memory})
    return {"engine": engine.name, "cases": found}


def main(folder: Path) -> None:
    """Do what the request says; what the package itself refuses is an answer."""
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    (folder / PROGRESS).write_text("loading the model", encoding="utf-8")
    try:
        answer = measure(request, folder)
    except PaddleInfraError as error:
        answer = {"error": str(error)}
    (folder / RESULT).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
