"""The same search with Ray Tune as the engine: Ray places trials on the machines of a cluster."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from paddle_infra._core.checks import check_positive
from paddle_infra._core.errors import InvalidInputError, TrainingError
from paddle_infra._core.extras import require
from paddle_infra.train.tuning.pruning import Report
from paddle_infra.train.tuning.search_result import SearchResult, TrialRow, best_of
from paddle_infra.train.tuning.search_space import Choice, Dimension, IntegerRange, as_space

_PURPOSE = "hyperparameter search on a cluster"
_VALUE, _IS_FINAL = "value", "is_final"
_FOLDER = re.compile(r"run_[0-9a-f]+(?:_\d{5})?_(\d+)_")  # of a trial: function, identity, count, parameters


def ray_search(
    objective: Callable[[dict[str, Any], Report], float],
    space: Mapping[str, Any],
    *,
    trials: int,
    directory: str | os.PathLike[str],
    mode: Literal["max", "min"] = "max",
    scheduler: Literal["none", "asha", "median"] = "none",
    engine: Literal["random", "optuna"] = "random",
    resources: Mapping[str, float] | None = None,
    seed: int | None = None,
    name: str = "search",
) -> SearchResult:
    """Look for the parameters with the best value on a Ray cluster.

    Connect first (``ray.init(address="auto")``); otherwise Ray starts a cluster of this machine. A call with a
    ``directory`` that holds the search already goes on with it: trials that ended are kept, those that failed or were
    interrupted run again.

    Unlike in :func:`~paddle_infra.train.search`, ``report(value)`` always returns False: Ray itself ends the process
    of a trial that the scheduler stops, between two reports, and its row is "pruned".

    Args:
        objective: ``objective(parameters, report)``, as for :func:`~paddle_infra.train.search`. It is pickled and
            runs in other processes: it must import or hold all it needs.
        space: as for :func:`~paddle_infra.train.search`.
        trials: how many.
        directory: folder of the results, which all machines can reach.
        mode: whether larger or smaller values are better.
        scheduler: "none", "asha" (asynchronous successive halving) or "median"; steps are counts of reports.
        engine: how values are proposed: "random", or by "optuna" (TPE).
        resources: of one trial, such as ``{"cpu": 4, "gpu": 1}``; None is one CPU.
        seed: of the proposals.
        name: folder in ``directory``.

    Raises:
        InvalidInputError: a bad argument, or steps of a range that Ray cannot draw.
        MissingExtraError: Ray is not installed (or Optuna, for its engine).
    """
    check_positive("trials", trials)
    for what, value, known in (
        ("mode", mode, ("max", "min")),
        ("scheduler", scheduler, ("none", "asha", "median")),
        ("engine", engine, ("random", "optuna")),
    ):
        if value not in known:
            raise InvalidInputError(f"{what}: expected one of {list(known)}, got {value!r}")
    dimensions = as_space(space)
    tune = require("ray.tune", extra="ray", purpose=_PURPOSE)
    parameter_space = ray_space(dimensions)
    trainable = tune.with_resources(_trainable(objective, mode, engine), dict(resources or {"cpu": 1}))
    folder = Path(directory).absolute()
    if tune.Tuner.can_restore(str(folder / name)):
        tuner = tune.Tuner.restore(
            str(folder / name),
            trainable,
            resume_unfinished=True,
            restart_errored=True,
            param_space=parameter_space,
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=parameter_space,
            tune_config=tune.TuneConfig(
                metric=_VALUE,
                mode=mode,
                num_samples=trials,
                search_alg=_engine(engine, mode, seed),
                scheduler=_scheduler(scheduler),
            ),
            run_config=tune.RunConfig(name=name, storage_path=str(folder), verbose=0),
        )
    return _result(tuner.fit(), mode, engine)


def ray_space(space: Mapping[str, Dimension]) -> dict[str, Any]:
    """Return the space in Ray's form.

    Raises:
        InvalidInputError: an integer range has a step and does not start at a multiple of it: Ray rounds to multiples.
        MissingExtraError: Ray is not installed.
    """
    tune = require("ray.tune", extra="ray", purpose=_PURPOSE)
    return {name: _ray_dimension(tune, name, dimension) for name, dimension in space.items()}


def _ray_dimension(tune: Any, name: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        return tune.choice(list(dimension.values))
    low, high = dimension.low, dimension.high
    if not isinstance(dimension, IntegerRange):
        return tune.loguniform(low, high) if dimension.log else tune.uniform(low, high)
    if dimension.step == 1:
        return tune.lograndint(low, high + 1) if dimension.log else tune.randint(low, high + 1)
    if low % dimension.step:
        raise InvalidInputError(
            f"search space: {name}: expected a range that starts at a multiple of its step {dimension.step}, got "
            f"{low}: Ray rounds to multiples"
        )
    last = high - high % dimension.step
    return tune.qrandint(low, last, dimension.step)


class _RayReport(Report):
    def _send(self, value: float, step: int) -> bool:
        require("ray.tune", extra="ray", purpose=_PURPOSE).report({_VALUE: value, _IS_FINAL: False})
        return False


def _trainable(
    objective: Callable[[dict[str, Any], Report], float], mode: Literal["max", "min"], engine: str
) -> Callable[[dict[str, Any]], None]:
    def run(parameters: dict[str, Any]) -> None:
        tune = require("ray.tune", extra="ray", purpose=_PURPOSE)
        number = _number(tune.get_context().get_trial_dir(), engine)
        value = float(objective(dict(parameters), _RayReport(number, number, mode)))
        tune.report({_VALUE: value, _IS_FINAL: True})

    return run


def _engine(name: str, mode: str, seed: int | None) -> Any:
    if name == "optuna":
        require("optuna", extra="ray", purpose="proposals by Optuna")
        return require("ray.tune.search.optuna", extra="ray", purpose=_PURPOSE).OptunaSearch(seed=seed)
    basic = require("ray.tune.search.basic_variant", extra="ray", purpose=_PURPOSE)
    return basic.BasicVariantGenerator(random_state=seed)


def _scheduler(name: str) -> Any:
    schedulers = require("ray.tune.schedulers", extra="ray", purpose=_PURPOSE)
    if name == "asha":
        return schedulers.ASHAScheduler(time_attr="training_iteration")
    if name == "median":
        return schedulers.MedianStoppingRule(
            time_attr="training_iteration", grace_period=1, min_samples_required=3
        )
    return schedulers.FIFOScheduler()


def _number(folder: str, engine: str) -> int:
    """Return the number of a trial, from 0; Ray counts those of a search engine from 1."""
    match = _FOLDER.match(Path(folder).name)
    if match is None:
        raise TrainingError(f"ray: expected a folder like run_52dbe_00001_1_x=0.5, got {folder}")
    return int(match[1]) - (engine == "optuna")


def _result(grid: Any, mode: str, engine: str) -> SearchResult:
    rows = []
    for result in grid:
        metrics = result.metrics or {}
        number = _number(result.path, engine)
        state = "failed" if result.error else "complete" if metrics.get(_IS_FINAL) else "pruned"
        history = result.metrics_dataframe
        has_reports = history is not None and _IS_FINAL in history  # else it failed before the first
        reported = history[~history[_IS_FINAL].astype(bool)][_VALUE].tolist() if has_reports else []
        rows.append(
            TrialRow(
                number=number,
                origin=number,
                state=state,
                value=metrics.get(_VALUE),
                parameters=json.loads((Path(result.path) / "params.json").read_text(encoding="utf-8")),
                reports={step: float(value) for step, value in enumerate(reported, start=1)},
                seconds=metrics.get("time_total_s"),
                error=None if result.error is None else str(result.error),
            )
        )
    return best_of(mode, sorted(rows, key=lambda row: row.number), {})
