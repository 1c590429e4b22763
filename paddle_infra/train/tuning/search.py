"""Hyperparameter search on Optuna: seeded, resumable, shared by any number of processes."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

from paddle_infra._core.checks import check_positive
from paddle_infra._core.errors import InvalidInputError, TrainingError
from paddle_infra._core.extras import require
from paddle_infra.train.tuning.pruning import Report
from paddle_infra.train.tuning.search_result import SearchResult, result_of
from paddle_infra.train.tuning.search_samplers import sampler_of
from paddle_infra.train.tuning.search_space import Choice, Dimension, IntegerRange, as_space, space_as_json
from paddle_infra.train.tuning.search_storage import SearchStorage, Worker, quiet_experiments
from paddle_infra.train.tuning.search_trials import (
    FAILURE,
    ORIGIN,
    SURPLUS,
    WORKER,
    has_work,
    is_surplus,
    recover,
)

Objective = Callable[[dict[str, Any], Report], float]
_PRUNERS = {
    "none": "NopPruner",
    "median": "MedianPruner",
    "hyperband": "HyperbandPruner",
    "successive_halving": "SuccessiveHalvingPruner",
}


def search(
    objective: Objective,
    space: Mapping[str, Any],
    *,
    trials: int,
    mode: Literal["max", "min"] = "max",
    storage: SearchStorage | str | os.PathLike[str] | None = None,
    sampler: str | Callable[[int | None], Any] = "tpe",
    pruner: Any = "none",
    seed: int | None = None,
    catch: tuple[type[Exception], ...] = (),
    timeout_s: float | None = None,
) -> SearchResult:
    """Look for the parameters with the best value.

    Several processes that call this with the same storage share the trials: together they run ``trials`` of
    them. A call goes on with what the storage already holds. Trials whose process died (SIGKILL, power) or was
    interrupted, and those that an error ended, are run again with the same parameters, before new ones.

    The *n*-th proposal is drawn from ``(seed, n)`` and the finished trials: with one worker a search that was
    stopped and resumed proposes what an uninterrupted one does.

    Args:
        objective: ``objective(parameters, report)`` returns the value of a trial, a finite number. It may call
            ``report(value)`` in between, and should return when that returns True;
            :func:`~paddle_infra.train.trainer_objective` makes one of a trainer.
        space: a range or list for each parameter, see :class:`~paddle_infra.train.FloatRange`,
            :class:`~paddle_infra.train.IntegerRange`, :class:`~paddle_infra.train.Choice`.
        trials: how many trials the study should have in all, including those it has (complete, pruned,
            running elsewhere, or failed for good).
        mode: whether larger or smaller values are better.
        storage: where the trials are kept: a path is a journal file, a string with ``://`` a database; None
            keeps them in memory.
        sampler: "tpe", "random", or a function that returns an Optuna sampler for a seed.
        pruner: "none", "median", "hyperband", "successive_halving", or an Optuna pruner. Steps are counts of
            reports.
        seed: makes the proposals repeatable.
        catch: errors of the objective that count as the result of a trial (a learning rate at which the loss
            diverges: ``NonFiniteLossError``). Any other error ends the search.
        timeout_s: start no further trial after so many seconds.

    Returns:
        The trials so far. If other workers are still busy, theirs are in it as "running".

    Raises:
        InvalidInputError: a bad argument, or the study in the storage has another space or mode.
        MissingExtraError: Optuna is not installed.
        TrainingError: the objective returned something that is no finite number.
    """
    check_positive("trials", trials)
    dimensions = as_space(space)
    place = storage if isinstance(storage, SearchStorage) else SearchStorage(storage)
    optuna = require("optuna", extra="search", purpose="hyperparameter search")
    rules = {"sampler": sampler_of(optuna, sampler, seed), "pruner": _pruner(optuna, pruner)}
    study = _open_study(optuna, place, dimensions, mode, rules)
    worker = Worker(place)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with quiet_experiments(optuna), worker.alive():
        while deadline is None or time.monotonic() < deadline:
            optuna.storages.fail_stale_trials(study)  # of databases; recover() knows the other cases
            recover(optuna, study, place, worker)
            if not has_work(study.get_trials(deepcopy=False), trials):
                break
            _Attempt(optuna, study, objective, dimensions, mode, trials, catch, worker.identity).run()
    return result_of(optuna, study, mode)


def read_search(storage: SearchStorage | str | os.PathLike[str]) -> SearchResult:
    """Read the trials of a study without running any.

    Raises:
        InvalidInputError: the storage holds no such study.
        MissingExtraError: Optuna is not installed.
    """
    optuna = require("optuna", extra="search", purpose="hyperparameter search")
    place = storage if isinstance(storage, SearchStorage) else SearchStorage(storage)
    missing = place.journal is not None and not place.journal.is_file()
    try:
        if missing:
            raise KeyError(place.name)
        study = optuna.load_study(study_name=place.name, storage=place.open())
    except KeyError as error:
        raise InvalidInputError(f"{place.location}: expected the study {place.name!r}, found none") from error
    return result_of(optuna, study, _mode_of(study))


class _Attempt:
    """One trial of this worker."""

    def __init__(
        self,
        optuna: Any,
        study: Any,
        objective: Objective,
        space: dict[str, Dimension],
        mode: Literal["max", "min"],
        budget: int,
        catch: tuple[type[Exception], ...],
        worker: str,
    ) -> None:
        self._optuna, self._study, self._objective, self._space = optuna, study, objective, space
        self._mode, self._budget, self._catch, self._worker = mode, budget, catch, worker
        self._trial: Any = None

    def run(self) -> None:
        """Ask for a trial, run it and tell the study."""
        try:
            # Not ask and tell: only optimize sends Optuna's heartbeats to a database.
            self._study.optimize(self._evaluate, n_trials=1, catch=(_SurplusTrial, *self._catch))
        except Exception as error:
            if self._trial is None or not self._is_finished_by_another():
                raise
            warnings.warn(
                f"trial {self._trial.number} took no sign of life for too long and was given to another worker; "
                f"its result is dropped ({error})",
                stacklevel=3,
            )

    def _evaluate(self, trial: Any) -> float:
        self._trial, optuna = trial, self._optuna
        trial.set_user_attr(WORKER, self._worker)
        if is_surplus(self._study.get_trials(deepcopy=False), trial.number, self._budget):
            trial.set_user_attr(SURPLUS, True)
            raise _SurplusTrial(f"trial {trial.number} is one more than the {self._budget} wanted")
        report = _TrialReport(trial, self._mode)
        try:
            parameters = {name: _suggest(trial, name, dimension) for name, dimension in self._space.items()}
            value = self._objective(parameters, report)
            if report.is_pruned:
                raise optuna.TrialPruned
            return _finite_number(value, trial.number)
        except optuna.TrialPruned:
            raise
        except BaseException as error:
            failure = {
                "error": f"{type(error).__name__}: {error}",
                "counts": isinstance(error, self._catch),
                "is_interrupt": isinstance(error, KeyboardInterrupt),
            }
            if not self._is_finished_by_another():
                trial.set_user_attr(FAILURE, failure)
            raise

    def _is_finished_by_another(self) -> bool:
        """Whether the trial has an end that this worker has not told: its own failures say why."""
        stored = self._study.get_trials(deepcopy=False)[self._trial.number]
        return stored.state.is_finished() and FAILURE not in stored.user_attrs


class _SurplusTrial(Exception):  # noqa: N818 - no error
    """Ends a trial that another worker has made unnecessary."""


class _TrialReport(Report):
    """A report that goes into the study."""

    def __init__(self, trial: Any, mode: Literal["max", "min"]) -> None:
        super().__init__(trial.number, trial.user_attrs.get(ORIGIN, trial.number), mode)
        self._trial = trial

    def _send(self, value: float, step: int) -> bool:
        self._trial.report(value, step)
        return bool(self._trial.should_prune())


def _suggest(trial: Any, name: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(name, dimension.values)
    if isinstance(dimension, IntegerRange):
        return trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log, step=dimension.step)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)


def _finite_number(value: Any, number: int) -> float:
    try:
        converted = float(value)
    except (TypeError, ValueError):
        converted = math.nan
    if not math.isfinite(converted):
        raise TrainingError(f"trial {number}: expected a finite number from the objective, got {value!r}")
    return converted


def _pruner(optuna: Any, pruner: Any) -> Any:
    if isinstance(pruner, optuna.pruners.BasePruner):
        return pruner
    if not isinstance(pruner, str) or pruner not in _PRUNERS:
        raise InvalidInputError(
            f"pruner: expected one of {sorted(_PRUNERS)} or an Optuna pruner, got {pruner!r}"
        )
    return getattr(optuna.pruners, _PRUNERS[pruner])()


def _mode_of(study: Any) -> str:
    return "max" if study.direction.name == "MAXIMIZE" else "min"


def _open_study(
    optuna: Any, place: SearchStorage, space: dict[str, Dimension], mode: str, rules: dict[str, Any]
) -> Any:
    """Open or create the study and check that it is this search."""
    if mode not in ("max", "min"):
        raise InvalidInputError(f"mode: expected 'max' or 'min', got {mode!r}")
    study = optuna.create_study(
        storage=place.open(),
        study_name=place.name,
        direction="maximize" if mode == "max" else "minimize",
        load_if_exists=True,
        **rules,
    )
    wanted = {"space": space_as_json(space), "mode": mode}
    if "search" not in study.user_attrs:
        if study.get_trials(deepcopy=False):
            raise InvalidInputError(
                f"{place.location}: expected a study of search(), got {place.name!r} of another program"
            )
        study.set_user_attr("search", wanted)
    got = study.user_attrs["search"]
    if got != wanted or _mode_of(study) != mode:
        raise InvalidInputError(
            f"{place.location}: study {place.name!r}: expected {got}, got {wanted}; use another name or location"
        )
    return study
