"""Which trials of a shared study count, which are to be run again, and which were one too many.

Workers do not lock anything. Trial numbers are given out atomically by the storage, and every rule below depends
on nothing but numbers and attributes: all workers come to the same verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle_infra.train.tuning.search_storage import SearchStorage, Worker

# Attributes of a trial.
WORKER = "worker"
RETRY_OF = "retry_of"  # number of the trial that this one repeats
ORIGIN = "origin"  # the first of such a chain
RETRIES = "retries"  # how many in the chain count against the limit
FAILURE = "failure"  # {"error": text, "counts": bool, "is_interrupt": bool}
SURPLUS = "surplus"


def counted(trials: Sequence[Any]) -> list[Any]:
    """Return the trials that use up the budget: of each chain of repetitions the last, and none in surplus."""
    repeated = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    seen: set[int] = set()
    kept: list[Any] = []
    for trial in sorted(trials, key=lambda trial: trial.number):
        original = trial.user_attrs.get(RETRY_OF)
        is_second = original is not None and original in seen  # two workers repeated one trial
        if original is not None:
            seen.add(original)
        if not is_second and SURPLUS not in trial.user_attrs and trial.number not in repeated:
            kept.append(trial)
    return kept


def has_work(trials: Sequence[Any], budget: int) -> bool:
    """Return whether a worker should ask for a trial."""
    kept = counted(trials)
    return len(kept) < budget or any(trial.state.name == "WAITING" for trial in kept[:budget])


def is_surplus(trials: Sequence[Any], number: int, budget: int) -> bool:
    """Return whether the trial that a worker was given is beyond the budget, or repeats what another repeats."""
    return all(trial.number != number for trial in counted(trials)[:budget])


def recover(optuna: Any, study: Any, storage: SearchStorage, worker: Worker) -> None:
    """Mark the running trials of dead workers as failed, and queue every trial that is to be run again."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "RUNNING" and worker.is_dead(
            trial.user_attrs.get(WORKER), trial.datetime_start
        ):
            try:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                continue  # another worker was faster, or it finished just now
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    for trial in trials:
        if trial.state.name != "FAIL" or trial.number in repeated or SURPLUS in trial.user_attrs:
            continue
        failure = trial.user_attrs.get(FAILURE, {})
        retries = trial.user_attrs.get(RETRIES, 0) + (0 if failure.get("is_interrupt") else 1)
        if failure.get("counts") or retries > storage.retries:
            continue
        origin = trial.user_attrs.get(ORIGIN, trial.number)
        attributes = {RETRY_OF: trial.number, ORIGIN: origin, RETRIES: retries}
        study.enqueue_trial(trial.params, user_attrs=attributes)
