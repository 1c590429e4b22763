"""A trial of a search, seen from inside: what it reports, and when it is told to end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from paddle_infra._core.errors import InvalidInputError, TrainingError
from paddle_infra.train.callbacks import Callback
from paddle_infra.train.metrics.base import is_better, metric_value

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


class Report(ABC):
    """How an objective tells its search about intermediate values.

    ``report(value)`` returns whether the trial should end now; the objective then returns, with any value.

    Attributes:
        number: number of the trial, from 0.
        origin: number of the trial that this one repeats because its process died, or ``number``. A folder of
            checkpoints named after it lets the repetition go on where the first attempt stopped.
        mode: "max" if larger values are better, "min" if smaller ones are.
        is_pruned: whether the trial has been told to end.
    """

    def __init__(self, number: int, origin: int, mode: Literal["max", "min"]) -> None:
        self.number, self.origin, self.mode = number, origin, mode
        self.is_pruned = False
        self._last_step = 0

    def __call__(self, value: float, step: int | None = None) -> bool:
        """Report the value at ``step`` (by default one more than the last) and return whether to end the trial.

        Raises:
            InvalidInputError: the step is not larger than the last one.
        """
        step = self._last_step + 1 if step is None else step
        if step <= self._last_step:
            raise InvalidInputError(f"report: expected a step after {self._last_step}, got {step}")
        self._last_step = step
        self.is_pruned = self._send(float(value), step) or self.is_pruned
        return self.is_pruned

    @abstractmethod
    def _send(self, value: float, step: int) -> bool:
        """Pass the value on and return whether the trial should end."""


class PruneTrial(Callback):
    """Reports a validation metric to a search after each validation, and ends the run if it is pruned.

    The run ends as any stopped run does: checkpoints are saved, loggers closed. The values so far are saved
    in checkpoints; a resumed run reports them again, so that its trial is judged by all of them.

    Args:
        metric: name of a validation metric.
        report: what the search gave to the objective.

    Attributes:
        best: the best value so far; None before the first that is not NaN.
    """

    def __init__(self, metric: str, report: Report) -> None:
        self.metric, self.report = metric, report
        self.best: float | None = None
        self._values: list[float] = []

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Start afresh in a new run; report the values of a resumed one."""
        if trainer.state.step == 0:
            self._values = []
        self.best = None
        for value in self._values:
            self._add(trainer, value)

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Report the metric; ask the trainer to stop if the trial is pruned."""
        self._values.append(metric_value(metrics, self.metric, "PruneTrial"))
        self._add(trainer, self._values[-1])

    def state_dict(self) -> dict[str, Any]:
        """Return the values reported so far."""
        return {"values": self._values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self._values = list(state["values"])

    def _add(self, trainer: Trainer, value: float) -> None:
        if is_better(value, self.best, self.report.mode):
            self.best = value
        verdict = self.report(value) if trainer.strategy.rank == 0 else False
        if trainer.strategy.sum([verdict])[0]:  # all processes stop after the same step
            trainer.state.stop(f"pruned: trial {self.report.number} with {self.metric} {value:.6g}")


def trainer_objective(
    make: Callable[[dict[str, Any], Report], tuple[Trainer, dict[str, Any]]], metric: str
) -> Callable[[dict[str, Any], Report], float]:
    """Return an objective that trains, and whose value is the best validation value of ``metric``.

    Args:
        make: ``make(parameters, report)`` returns a trainer and the keyword arguments of its ``fit``
            (``train_loader``, ``eval_loader``, ``max_epochs`` …). Seed the random generators in it.
        metric: name of a validation metric; it is also reported after each validation.

    Raises:
        TrainingError: (by the objective) no validation gave a number.
    """

    def objective(parameters: dict[str, Any], report: Report) -> float:
        trainer, fit_arguments = make(parameters, report)
        watch = PruneTrial(metric, report)
        trainer.callbacks = sorted([*trainer.callbacks, watch], key=lambda callback: callback.runs_last)
        trainer.fit(**fit_arguments)
        if watch.best is None:
            raise TrainingError(
                f"trial {report.number}: expected a validation with a value of {metric!r} that is not NaN, "
                "got none (fit needs an eval_loader)"
            )
        return watch.best

    return objective
