"""What a search found: the best parameters, every trial, which parameters mattered."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from paddle_infra._core.atomic import write_json
from paddle_infra.train.tuning.search_trials import FAILURE, ORIGIN, RETRY_OF, SURPLUS


@dataclass(frozen=True)
class TrialRow:
    """One trial of a search.

    Attributes:
        number: its number, from 0.
        state: "complete", "pruned", "failed", "running" or "waiting".
        value: what the objective returned; the last report of a pruned trial; None if there is none.
        parameters: the values that were tried.
        reports: intermediate values by step.
        seconds: how long it took; None if it has not ended.
        error: what ended a failed trial; None if its process died.
        retry_of: number of the trial that this one repeats.
        origin: number of the first trial of such a chain, or ``number``; see
            :class:`~paddle_infra.train.Report`.
    """

    number: int
    origin: int
    state: str
    value: float | None
    parameters: dict[str, Any]
    reports: dict[int, float]
    seconds: float | None
    error: str | None = None
    retry_of: int | None = None


@dataclass(frozen=True)
class SearchResult:
    """The trials of a search and the best of them.

    Attributes:
        mode: "max" or "min".
        best_number: number of the complete trial with the best value; None if none is complete.
        best_value: its value.
        best_parameters: its parameters; empty if there is none.
        trials: all trials by number, also those that failed.
        importances: share of each parameter in the differences between values, as Optuna estimates it
            (PED-ANOVA, arXiv:2304.10255); empty with fewer than two complete trials, or from Ray.
    """

    mode: str
    best_number: int | None
    best_value: float | None
    best_parameters: dict[str, Any]
    trials: list[TrialRow]
    importances: dict[str, float]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON, atomically. Values that are not finite are written as null.

        Raises:
            StorageError: the file could not be written.
        """
        write_json(path, _finite(asdict(self)))


def best_of(mode: str, trials: list[TrialRow], importances: dict[str, float]) -> SearchResult:
    """Return the result with the best complete trial; of equals, the one with the smallest number."""
    complete = [row for row in trials if row.state == "complete" and row.value is not None]
    sign = 1.0 if mode == "min" else -1.0
    best = min(complete, key=lambda row: (sign * (row.value or 0.0), row.number), default=None)
    if best is None:
        return SearchResult(mode, None, None, {}, trials, importances)
    return SearchResult(mode, best.number, best.value, dict(best.parameters), trials, importances)


def result_of(optuna: Any, study: Any, mode: str) -> SearchResult:
    """Read a result from an Optuna study."""
    rows = [_row(trial) for trial in study.get_trials(deepcopy=False) if SURPLUS not in trial.user_attrs]
    complete = sum(row.state == "complete" for row in rows)
    importances = optuna.importance.get_param_importances(study) if complete > 1 else {}
    return best_of(mode, rows, {name: float(share) for name, share in importances.items()})


def _row(trial: Any) -> TrialRow:
    duration, state = trial.duration, trial.state.name.lower()
    failure = trial.user_attrs.get(FAILURE, {})
    return TrialRow(
        number=trial.number,
        origin=trial.user_attrs.get(ORIGIN, trial.number),
        state="failed" if state == "fail" else state,
        value=trial.values[0] if trial.values else None,
        parameters=dict(trial.params),
        reports=dict(trial.intermediate_values),
        seconds=None if duration is None else duration.total_seconds(),
        error=failure.get("error"),
        retry_of=trial.user_attrs.get(RETRY_OF),
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
