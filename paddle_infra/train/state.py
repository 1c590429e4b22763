"""What a run knows about itself: plain numbers that go into every checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from paddle_infra._core.errors import CheckpointError
from paddle_infra.train.window import StepResult


@dataclass
class TrainState:
    """The position and the scores of a run.

    Attributes:
        epoch: completed epochs; the epoch being run is ``epoch + 1`` in messages and logs.
        batch: micro-batches of the current epoch that are already trained on, in all processes together.
        step: completed optimizer steps.
        samples: samples trained on since the start of the run.
        items: valid items (labels that are not -100) trained on since the start of the run.
        skipped: windows that were left out because something was not finite.
        loss: mean loss per valid item of the last step; None before the first.
        grad_norm: norm of the last step's gradients before clipping; None if the optimizer does not clip with
            one of :mod:`paddle_infra.train.optimizers.clipping`.
        learning_rate: rate of the last step; None before the first.
        metrics: result of the last validation; empty before the first.
        best_value: best value so far of the metric that the checkpoint callback watches; None if there is
            none.
        best_step: the step at which it was reached.
        should_stop: set by a callback to end the run after the current step.
        stop_reason: why, in words.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    samples: int = 0
    items: int = 0
    skipped: int = 0
    loss: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    best_value: float | None = None
    best_step: int | None = None
    should_stop: bool = False
    stop_reason: str | None = None

    def stop(self, reason: str) -> None:
        """Ask the trainer to end the run after the current step, for ``reason``."""
        self.should_stop, self.stop_reason = True, reason

    def add(self, result: StepResult) -> None:
        """Count a window that was trained on, or skipped."""
        self.batch += result.batches
        self.samples += result.samples
        if result.is_skipped:
            self.skipped += 1
            return
        self.step += 1
        self.items += result.items
        self.loss, self.learning_rate = result.loss, result.learning_rate
        self.grad_norm = result.grad_norm

    def to_dict(self) -> dict[str, Any]:
        """Return a copy as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainState:
        """Rebuild a state from :meth:`to_dict`.

        Raises:
            CheckpointError: a field is missing or unknown.
        """
        expected = {item.name for item in dataclasses.fields(cls)}
        if set(values) != expected:
            raise CheckpointError(
                f"training state: expected the fields {sorted(expected)}, got {sorted(values)}: "
                "the checkpoint comes from another version"
            )
        return cls(**values)
