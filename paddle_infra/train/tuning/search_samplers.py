"""Samplers whose draws for a trial depend on its rank, not on which worker runs it or since when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.tuning.search_trials import RETRY_OF

_NAMES = {"tpe": "TPESampler", "random": "RandomSampler"}


def sampler_of(optuna: Any, sampler: str | Callable[[int | None], Any], seed: int | None) -> Any:
    """Return an Optuna sampler that starts every trial from a seed made of ``seed`` and the trial's rank.

    A seeded sampler of Optuna begins the same sequence again in every process: a resumed study would repeat its
    first random proposals, and two workers would propose the same.

    Args:
        optuna: the module.
        sampler: "tpe", "random", or a function that returns an Optuna sampler for a seed.
        seed: a non-negative integer, or None for fresh randomness.

    Raises:
        InvalidInputError: an unknown name or a bad seed.
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise InvalidInputError(f"seed: expected a non-negative integer or None, got {seed!r}")
    if callable(sampler):
        make = sampler
    elif sampler in _NAMES:
        cls = getattr(optuna.samplers, _NAMES[sampler])

        def make(seed: int | None) -> Any:
            return cls(seed=seed)

    else:
        raise InvalidInputError(
            f"sampler: expected one of {sorted(_NAMES)} or a function of a seed, got {sampler!r}"
        )

    class PerTrialSampler(optuna.samplers.BaseSampler):
        """Hands everything to a sampler made for the trial."""

        def __init__(self) -> None:
            self._inner = make(None)

        def before_trial(self, study: Any, trial: Any) -> None:
            if seed is not None:
                # Repetitions draw nothing: they must not shift the draws of the trials after them.
                earlier = study.get_trials(deepcopy=False)[: trial.number]
                index = sum(RETRY_OF not in other.user_attrs for other in earlier)
                words = np.random.SeedSequence([seed, index]).generate_state(1)
                self._inner = make(int(words[0]))
            self._inner.before_trial(study, trial)

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return self._inner.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self._inner.sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return self._inner.sample_independent(study, trial, param_name, param_distribution)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            self._inner.after_trial(study, trial, state, values)

    return PerTrialSampler()
