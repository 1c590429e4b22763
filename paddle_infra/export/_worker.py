"""Runs an exported model in its own process, from files: ``python -m paddle_infra.export._worker FOLDER``.

``FOLDER/request.json`` says which export and what to do; the answer goes to ``FOLDER/result.json``, output
arrays beside it.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paddle_infra.export._arrays import load_arrays, save_arrays
from paddle_infra.export._process import PROGRESS, REQUEST, RESULT, inputs_file, outputs_file
from paddle_infra.export.engines import Engine, open_engine
from paddle_infra.export.manifest import read_manifest


def run_cases(engine: Engine, folder: Path, cases: list[str]) -> dict[str, Any]:
    """Run every case; a case that the engine refuses is reported, the others still run."""
    errors: dict[str, str] = {}
    for index, name in enumerate(cases):
        (folder / PROGRESS).write_text(f"running case {name}", encoding="utf-8")
        try:
            outputs = engine.run(load_arrays(inputs_file(folder, index)))
        except Exception as error:  # any engine error is an answer: the parent decides what it means
            errors[str(index)] = f"{type(error).__name__}: {error}".strip()
            continue
        save_arrays(outputs_file(folder, index), outputs)
    return {"errors": errors}


def time_runs(engine: Engine, folder: Path, repeats: int, warmup: int) -> dict[str, Any]:
    """Time single runs in milliseconds."""
    inputs = load_arrays(inputs_file(folder, 0))
    (folder / PROGRESS).write_text("measuring latency", encoding="utf-8")
    for _ in range(warmup):
        engine.run(inputs)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        engine.run(inputs)
        times.append((time.perf_counter() - start) * 1e3)
    return {"times_ms": times}


def main(folder: Path) -> None:
    """Do what the request says."""
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    (folder / PROGRESS).write_text("loading the model", encoding="utf-8")
    manifest = read_manifest(request["export"])
    engine = open_engine(request["export"], manifest, request["threads"])
    answer: dict[str, Any] = {
        "engine": engine.name,
        "inputs": [asdict(info) for info in engine.inputs],
        "outputs": [asdict(info) for info in engine.outputs],
    }
    if request["task"] == "run":
        answer |= run_cases(engine, folder, request["cases"])
    else:
        answer |= time_runs(engine, folder, request["repeats"], request["warmup"])
    (folder / RESULT).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
