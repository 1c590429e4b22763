"""Time and memory of every engine that runs an export, each in a process of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddle_infra._core.checks import check_number, check_positive
from paddle_infra._core.errors import (
    ExportError,
    InvalidInputError,
    MissingExtraError,
    UnsupportedError,
)
from paddle_infra.export._arrays import load_arrays, save_arrays
from paddle_infra.export._process import inputs_file, outputs_file, run_fresh
from paddle_infra.export.cases import resized
from paddle_infra.export.engines import Precision
from paddle_infra.export.manifest import EXAMPLES_NAME
from paddle_infra.export.spec import Arrays, axis_sizes
from paddle_infra.inference.backends import (
    Backend,
    Export,
    Settings,
    candidates,
    find_exports,
    require_installed,
)
from paddle_infra.inference.decision import Candidate, check_same
from paddle_infra.inference.predictor import TOLERANCES


@dataclass(frozen=True)
class BenchmarkRow:
    """What one engine needs for inputs of one size.

    Attributes:
        backend: the engine.
        engine: its name and version.
        folder: of the export.
        threads: of one call.
        sizes: of the dynamic axes.
        p50_ms: half of the runs took at most this; ``p90_ms`` and ``p99_ms`` likewise.
        mean_ms: of all runs.
        runs_per_s: of one caller, who starts a run when the last one has ended.
        memory_mb: what the process grew by for loading the engine and running all sizes so far, in 2^20 bytes; None
            where the system does not say.
    """

    backend: Backend
    engine: str
    folder: str
    threads: int
    sizes: dict[str, int]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    runs_per_s: float
    memory_mb: float | None


@dataclass(frozen=True)
class Benchmark:
    """Rows, grouped by threads and sizes, the fastest first; and the engines that could not run.

    Attributes:
        precision: of all rows.
        tolerance: to which all engines agreed.
        repeats: timed runs behind each row.
        rows: the measurements.
        refused: engines without rows, and why.
    """

    precision: Precision
    tolerance: float
    repeats: int
    rows: tuple[BenchmarkRow, ...]
    refused: tuple[Candidate, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = asdict(self)
        for refused in values["refused"]:
            refused["folder"] = str(refused["folder"])
        return values


def benchmark(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    sizes: Sequence[Mapping[str, int]] = ({},),
    *,
    threads: Sequence[int] = (1,),
    precision: Precision = "float32",
    repeats: int = 50,
    warmup: int = 5,
    tolerance: float | None = None,
    timeout_s: float = 600.0,
) -> Benchmark:
    """Time every installed engine that reads one of the exports, and compare what they return.

    Each engine, with each number of threads, has a fresh process. Inputs are like the export's example, with the sizes
    asked for.

    Args:
        path: an export folder, a folder of export folders, or a list of either: exports of one model.
        sizes: sizes of dynamic axes by name, ``{"batch": 8, "length": 128}``; an axis left out is as in the example.
        threads: numbers of threads to try.
        precision: ``"float32"`` or ``"bfloat16"``.
        repeats: timed runs for each row.
        warmup: runs before timing starts.
        tolerance: outputs may differ by ``tolerance * (1 + abs(output))``. None is 1e-4, for bfloat16 5e-2.
        timeout_s: seconds until a process is killed.

    Raises:
        InvalidInputError: an argument cannot be used.
        ExportError, VerificationError: there is no export, or a file has changed.
        UnsupportedError: no engine can run the model; the message has the reason of each.
        DtypeMismatch, AxisMismatch, ValueMismatch: two engines disagree: nothing is compared.
    """
    check_positive("repeats", repeats)
    if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
        raise InvalidInputError(f"warmup: expected an integer, at least 0, got {warmup!r}")
    if not threads or not sizes:
        raise InvalidInputError(f"threads, sizes: expected at least one each, got {threads!r}, {sizes!r}")
    settings = [Settings(count, precision) for count in threads]
    bound = check_number("tolerance", TOLERANCES[precision] if tolerance is None else tolerance, 0.0)
    exports = find_exports(path)
    cases = _cases(exports[0], sizes)
    request = {"repeats": repeats, "warmup": warmup, "cases": len(cases)}
    rows: list[tuple[int, BenchmarkRow]] = []
    refused: dict[tuple[Backend, Path], Candidate] = {}
    expected: list[Arrays] = []
    for setting in settings:
        for backend, export in candidates(exports):
            if (backend, export.folder) in refused:
                continue
            try:
                answer, outputs = _measure(
                    backend, export, setting, [inputs for _, inputs in cases], request, timeout_s
                )
            except (ExportError, MissingExtraError, UnsupportedError) as error:
                refused[backend, export.folder] = Candidate(backend, export.folder, refusal=str(error))
                continue
            for (shape, _), want, got in zip(cases, expected, outputs, strict=False):
                check_same(want, got, f"{shape}, {backend} with {export.folder}", bound)
            expected = expected or outputs
            for index, ((shape, _), found) in enumerate(zip(cases, answer["cases"], strict=True)):
                rows.append((index, _row(backend, answer["engine"], export, setting, shape, found)))
    if not rows:
        reasons = "\n".join(map(str, refused.values()))
        raise UnsupportedError(f"no engine can run the model:\n{reasons}")
    order = {count: place for place, count in enumerate(threads)}
    rows.sort(key=lambda item: (order[item[1].threads], item[0], item[1].p50_ms))
    return Benchmark(precision, bound, repeats, tuple(row for _, row in rows), tuple(refused.values()))


def _cases(export: Export, sizes: Sequence[Mapping[str, int]]) -> list[tuple[dict[str, int], Arrays]]:
    examples = load_arrays(export.folder / EXAMPLES_NAME)
    own = axis_sizes(export.manifest.inputs, examples)
    rng = np.random.default_rng(0)
    cases = []
    for asked in sizes:
        unknown = set(asked) - set(own)
        if unknown:
            raise InvalidInputError(f"sizes: expected dynamic axes among {list(own)}, got {sorted(unknown)}")
        for name, size in asked.items():
            check_positive(f"sizes: {name!r}", size)
        shape = {**own, **asked}
        inputs = examples if shape == own else resized(examples, export.manifest.inputs, shape, rng)
        cases.append((shape, inputs))
    return cases


def _measure(
    backend: Backend,
    export: Export,
    settings: Settings,
    cases: Sequence[Arrays],
    request: dict[str, Any],
    timeout_s: float,
) -> tuple[dict[str, Any], list[Arrays]]:
    require_installed(backend)
    with tempfile.TemporaryDirectory(prefix="paddle-infra-benchmark-") as temporary:
        folder = Path(temporary)
        for index, inputs in enumerate(cases):
            save_arrays(inputs_file(folder, index), inputs)
        request = {
            **request,
            "backend": backend,
            "export": str(export.folder.resolve()),
            "settings": asdict(settings),
        }
        answer = run_fresh(
            "paddle_infra.inference._worker", request, folder, timeout_s=timeout_s, threads=settings.threads
        )
        if "error" in answer:
            raise ExportError(answer["error"])
        return answer, [load_arrays(outputs_file(folder, index)) for index in range(len(cases))]


def _row(
    backend: Backend,
    engine: str,
    export: Export,
    settings: Settings,
    sizes: dict[str, int],
    found: Mapping[str, Any],
) -> BenchmarkRow:
    p50, p90, p99 = (float(value) for value in np.percentile(found["times_ms"], (50, 90, 99)))
    mean = float(np.mean(found["times_ms"]))
    return BenchmarkRow(
        backend=backend,
        engine=engine,
        folder=str(export.folder),
        threads=settings.threads,
        sizes=sizes,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=mean,
        runs_per_s=1e3 / mean,
        memory_mb=found["memory_mb"],
    )
