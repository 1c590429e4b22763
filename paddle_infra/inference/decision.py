"""Which engine runs a model, and why: every candidate is tried on the same inputs, the fastest is taken."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle_infra._core.errors import PaddleInfraError, UnsupportedError
from paddle_infra.export.compare import check_form, check_values
from paddle_infra.export.engines import Engine
from paddle_infra.export.spec import Arrays
from paddle_infra.inference.backends import Backend, Export, Settings, candidates, open_engines

_ROUNDS, _SECONDS = 30, 2.0


@dataclass(frozen=True)
class Candidate:
    """An engine with an export that it reads.

    Attributes:
        backend: the engine.
        folder: of the export.
        median_ms: time of one run of the examples; None if it was not measured.
        refusal: why it cannot run the model; empty if it can.
    """

    backend: Backend
    folder: Path
    median_ms: float | None = None
    refusal: str = ""

    def __str__(self) -> str:
        found = self.refusal or ("not measured" if self.median_ms is None else f"{self.median_ms:.3f} ms")
        return f"{self.backend} with {self.folder}: {found}"


@dataclass(frozen=True)
class Decision:
    """The engine taken, the reason, and what was found of every candidate."""

    chosen: Candidate
    reason: str
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.chosen.backend}: {self.reason}", *(f"  {found}" for found in self.candidates)]
        )


def decide(
    exports: Sequence[Export], settings: Settings, examples: Arrays, tolerance: float
) -> tuple[Decision, Export, list[Engine]]:
    """Open every candidate, time them in turns, and return the fastest, opened for all calls.

    Engines are opened for one call at a time to be measured: 30 rounds, or as many as fit in 2 seconds.

    Raises:
        UnsupportedError: none can run the model; the message has the reason of each.
        DtypeMismatch, AxisMismatch, ValueMismatch: two engines disagree.
    """
    single = Settings(settings.threads, settings.precision)
    opened: dict[int, Engine] = {}
    results: list[Arrays] = []
    pairs = candidates(exports)
    found = [Candidate(backend, export.folder) for backend, export in pairs]
    for index, (backend, export) in enumerate(pairs):
        try:
            engine = open_engines(backend, export, single)[0]
            results.append(engine.run(examples))
            opened[index] = engine
        except Exception as error:  # whatever an engine says is the reason not to take it
            text = str(error) if isinstance(error, PaddleInfraError) else f"{type(error).__name__}: {error}"
            found[index] = Candidate(backend, export.folder, refusal=" ".join(text.split()))
    if not opened:
        raise UnsupportedError("no engine can run the model:\n" + "\n".join(map(str, found)))
    names = [found[index].backend for index in opened]
    for name, result in zip(names[1:], results[1:], strict=True):
        check_same(results[0], result, f"{name} beside {names[0]}", tolerance)
    medians = _medians(opened, examples)
    for index, median in medians.items():
        found[index] = Candidate(found[index].backend, found[index].folder, median)
    best = min(medians, key=lambda index: medians[index])
    sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in examples.items())
    reason = f"the fastest of {len(opened)}, {settings.threads} thread(s), {settings.precision}, on {sizes}"
    backend, export = pairs[best]
    # Opened again only if there must be more than the one measured.
    engines = [opened[best]] if settings.concurrency == 1 else open_engines(backend, export, settings)
    return Decision(found[best], reason, tuple(found)), export, engines


def check_same(expected: Arrays, got: Arrays, case: str, tolerance: float) -> None:
    """Raise unless two engines' outputs agree to ``tolerance * (1 + abs(expected))``.

    Raises:
        DtypeMismatch, AxisMismatch, ValueMismatch: they do not.
    """
    for name, array in expected.items():
        check_form(name, case, array, got[name])
        check_values(name, case, array, got[name], atol=tolerance, rtol=tolerance)


def _medians(engines: dict[int, Engine], examples: Arrays) -> dict[int, float]:
    """Time the engines in turns, so that a disturbance meets all of them; return milliseconds."""
    times: dict[int, list[float]] = {index: [] for index in engines}
    end = time.perf_counter() + _SECONDS
    for _ in range(_ROUNDS):
        for index, engine in engines.items():
            start = time.perf_counter()
            engine.run(examples)
            times[index].append((time.perf_counter() - start) * 1e3)
        if time.perf_counter() > end:
            break
    return {index: statistics.median(values) for index, values in times.items()}
