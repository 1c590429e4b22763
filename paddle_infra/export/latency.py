"""How long one run of an export takes, measured in a fresh process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.export._arrays import save_arrays
from paddle_infra.export._process import inputs_file, run_fresh
from paddle_infra.export.manifest import check_files, read_manifest
from paddle_infra.export.spec import as_arrays, axis_sizes


@dataclass(frozen=True)
class LatencyReport:
    """Quantiles of the time of one run, in milliseconds."""

    engine: str
    sizes: dict[str, int]
    threads: int
    repeats: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float


def measure_latency(
    path: str | os.PathLike[str],
    inputs: Mapping[str, Any],
    *,
    repeats: int = 50,
    threads: int = 1,
    warmup: int = 3,
    timeout_s: float = 600.0,
) -> LatencyReport:
    """Time ``repeats`` runs of the same inputs after ``warmup`` runs.

    Args:
        path: folder of an export.
        inputs: arrays by input name.
        repeats: timed runs.
        threads: for the engine's own parallel loops.
        warmup: runs before timing starts.
        timeout_s: seconds until the process is killed.

    Raises:
        InvalidInputError: a count is not positive.
        NameMismatch, DtypeMismatch, AxisMismatch: the inputs are not those in the manifest.
        ExportError: the process failed.
    """
    for name, value, least in (("repeats", repeats, 1), ("threads", threads, 1), ("warmup", warmup, 0)):
        if value < least:
            raise InvalidInputError(f"{name}: expected at least {least}, got {value}")
    manifest = read_manifest(path)
    check_files(path, manifest)
    arrays = as_arrays(inputs)
    sizes = axis_sizes(manifest.inputs, arrays)
    with tempfile.TemporaryDirectory(prefix="paddle-infra-latency-") as temporary:
        folder = Path(temporary)
        save_arrays(inputs_file(folder, 0), arrays)
        request = {
            "task": "time",
            "export": str(Path(path).resolve()),
            "threads": threads,
            "repeats": repeats,
            "warmup": warmup,
        }
        answer = run_fresh(
            "paddle_infra.export._worker", request, folder, timeout_s=timeout_s, threads=threads
        )
    p50, p90, p99 = (float(value) for value in np.percentile(answer["times_ms"], (50, 90, 99)))
    mean = float(np.mean(answer["times_ms"]))
    return LatencyReport(answer["engine"], sizes, threads, repeats, p50, p90, p99, mean)
