"""The best value of every validation metric, and when it was reached."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from paddle_infra.train.callbacks import Callback
from paddle_infra.train.metrics.base import is_better

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer

LOWER_IS_BETTER = (
    "loss",
    "perplexity",
    "mean_absolute_error",
    "mean_squared_error",
    "root_mean_squared_error",
    "expected_calibration_error",
)


class BestMetrics(Callback):
    """Tracks the best value and its step for every metric of the validations; saved in checkpoints.

    At the end of a run the table is printed to standard error, by the process of rank 0.

    Args:
        lower_is_better: names of metrics of which smaller values are better; for several evaluation sets the part
            of ``name/metric`` after the last slash.
        is_shown: whether to print the table.

    Attributes:
        best: value and step by metric. NaN is never the best.
    """

    def __init__(self, *, lower_is_better: Sequence[str] = LOWER_IS_BETTER, is_shown: bool = True) -> None:
        self.lower_is_better, self.is_shown = frozenset(lower_is_better), is_shown
        self.best: dict[str, tuple[float, int]] = {}

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Start afresh in a new run."""
        if trainer.resumed_from is None:
            self.best = {}

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Compare every metric with its best value so far; of equal values the earlier one stays."""
        for name, value in metrics.items():
            known = self.best.get(name)
            if is_better(value, None if known is None else known[0], self.mode(name)):
                self.best[name] = (value, trainer.state.step)

    def on_fit_end(self, trainer: Trainer) -> None:
        """Show the table."""
        if self.is_shown and self.best and trainer.strategy.rank == 0:
            print(self.table(), file=sys.stderr)  # a live progress bar lets it through above itself

    def mode(self, name: str) -> Literal["max", "min"]:
        """Return in which direction a metric is better."""
        return "min" if name.rsplit("/", 1)[-1] in self.lower_is_better else "max"

    def table(self) -> str:
        """Return one line per metric: name, best value, step."""
        width = max(map(len, self.best), default=0)
        lines = [
            f"best {name:<{width}}  {value:.4f}  step {step}" for name, (value, step) in self.best.items()
        ]
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        """Return the best values and their steps."""
        return {"best": {name: list(pair) for name, pair in self.best.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self.best = {name: (value, step) for name, (value, step) in state["best"].items()}
