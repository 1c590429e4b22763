"""End a run when a validation metric no longer improves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.callbacks import Callback
from paddle_infra.train.metrics.base import is_better, metric_value

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


class EarlyStopping(Callback):
    """Stops after ``patience`` validations in a row without improvement. Its state is saved in checkpoints.

    Args:
        metric: name of a validation metric.
        mode: "max" if larger values are better, "min" if smaller ones are.
        patience: validations without improvement that are tolerated, at least 1.
        min_delta: how much better a value must be to count as an improvement.
    """

    def __init__(
        self, metric: str, *, mode: Literal["max", "min"] = "max", patience: int = 3, min_delta: float = 0.0
    ) -> None:
        if patience < 1 or min_delta < 0:
            raise InvalidInputError(
                f"EarlyStopping: expected patience >= 1 and min_delta >= 0, got {patience} and {min_delta}"
            )
        self.metric, self.mode, self.patience, self.min_delta = metric, mode, patience, min_delta
        self._best: float | None = None
        self._misses = 0

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Start afresh in a new run."""
        if trainer.state.step == 0:
            self._best, self._misses = None, 0

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Compare with the best value so far. NaN never counts as an improvement."""
        value = metric_value(metrics, self.metric, "EarlyStopping")
        if is_better(value, self._best, self.mode, self.min_delta):
            self._best, self._misses = value, 0
            return
        self._misses += 1
        if self._misses >= self.patience:
            best = "nothing but NaN" if self._best is None else f"{self._best:.6g}"
            trainer.state.stop(
                f"{self.metric} has not improved on {best} by more than {self.min_delta:g} "
                f"in {self._misses} validations"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the number of validations since."""
        return {"best": self._best, "misses": self._misses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self._best, self._misses = state["best"], state["misses"]
