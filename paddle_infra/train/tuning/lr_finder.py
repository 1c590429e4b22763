"""Learning-rate range test: train with a growing rate and look where the loss falls fastest and where it explodes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count, repeat
from typing import TYPE_CHECKING, Any, Literal

from paddle.optimizer.lr import LambdaDecay

from paddle_infra._core.atomic import write_text
from paddle_infra._core.errors import InvalidInputError, NonFiniteLossError, TrainingError
from paddle_infra.train.batches import EpochBatches, windows
from paddle_infra.train.tuning.trial import trial, use_rate
from paddle_infra.train.window import StepResult

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer

_FEWEST = 10


@dataclass(frozen=True)
class LearningRateCurve:
    """The losses of a range test.

    Attributes:
        rates: learning rate of each step, growing by the same factor.
        losses: loss of each step, before its update.
        smoothed: exponential moving average of the losses, freed from its bias towards 0.
        divergence: the first rate at which the smoothed loss was above the bound, or a loss was not finite; None if
            that did not happen.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    divergence: float | None

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest per factor of the rate (central differences).

        Raises:
            TrainingError: it never falls.
        """
        slopes = [after - before for before, after in zip(self.smoothed, self.smoothed[2:], strict=False)]
        index = min(range(len(slopes)), key=slopes.__getitem__)
        if slopes[index] >= 0:
            raise TrainingError(
                f"learning-rate curve: expected a loss that falls somewhere between {self.rates[0]:g} and "
                f"{self.rates[-1]:g}, got none: try a lower range, more steps or another training step"
            )
        return self.rates[index + 1]

    def suggestion(self, rule: Literal["steepest", "divergence"] = "steepest") -> float:
        """Return a peak learning rate: where the loss falls fastest, or one tenth of where it explodes.

        Raises:
            InvalidInputError: the rule is unknown.
            TrainingError: the loss never falls, or never explodes.
        """
        if rule == "steepest":
            return self.steepest
        if rule != "divergence":
            raise InvalidInputError(f"rule: expected 'steepest' or 'divergence', got {rule!r}")
        if self.divergence is None:
            raise TrainingError(
                f"learning-rate curve: expected a loss that explodes below {self.rates[-1]:g}, got none: "
                "test up to a higher rate"
            )
        return self.divergence / 10

    def save_svg(self, path: str | os.PathLike[str], *, width: int = 640, height: int = 360) -> None:
        """Draw the losses (grey) and the smoothed losses (blue) over the logarithm of the rate.

        Raises:
            StorageError: the file could not be written; an earlier one is untouched.
        """
        margin = 48
        shown = [loss for loss in self.smoothed if math.isfinite(loss)]
        low, high = min(shown), max(shown)
        span, decades = (high - low) or 1.0, math.log(self.rates[-1] / self.rates[0])

        def points(values: tuple[float, ...]) -> str:
            return " ".join(
                f"{margin + (width - 2 * margin) * math.log(rate / self.rates[0]) / decades:.1f},"
                f"{height - margin - (height - 2 * margin) * min(max((loss - low) / span, 0), 1):.1f}"
                for rate, loss in zip(self.rates, values, strict=True)
                if math.isfinite(loss)
            )

        base, right = height - margin, width - margin
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
            'font-size="12">',
            f'<path d="M{margin},{margin} V{base} H{right}" fill="none" stroke="#444"/>',
            f'<polyline points="{points(self.losses)}" fill="none" stroke="#bbb"/>',
            f'<polyline points="{points(self.smoothed)}" fill="none" stroke="#06c" stroke-width="2"/>',
            f'<text x="{margin}" y="{base + 18}">{self.rates[0]:g}</text>',
            f'<text x="{right}" y="{base + 18}" text-anchor="end">{self.rates[-1]:g}</text>',
            f'<text x="{width / 2}" y="{base + 34}" text-anchor="middle">learning rate (logarithmic)</text>',
            f'<text x="{margin - 4}" y="{base}" text-anchor="end">{low:.3g}</text>',
            f'<text x="{margin - 4}" y="{margin}" text-anchor="end">{high:.3g}</text>',
            "</svg>",
        ]
        write_text(path, "\n".join(lines) + "\n")


def find_learning_rate(
    trainer: Trainer,
    loader: Any,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    bound: float = 4.0,
) -> LearningRateCurve:
    r"""Train ``steps`` optimizer steps with a rate that grows from ``low`` to ``high``, then put everything back.

    Step *i* has the rate :math:`low \cdot (high / low)^{i / (steps - 1)}`; factors of parameters (layer-wise decay,
    groups) apply. The test stops early where the smoothed loss exceeds ``bound`` times the best so far, or a loss or
    gradient is not finite. Model, optimizer, schedule and random generators are bit for bit as before afterwards; no
    callback is called.

    Args:
        trainer: what to train, between two calls of ``fit``.
        loader: training batches; started again as often as needed.
        low: first rate.
        high: last rate.
        steps: how many steps.
        smoothing: decay of the moving average of the losses, in [0, 1).
        bound: what counts as an explosion. Losses are taken to be positive.

    Raises:
        InvalidInputError: an argument is out of range, or the loader is empty.
        TrainingError: the loss exploded within the first ten steps, too few for a curve.

    References:
        Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186, section 3.3. There the rate grows
        linearly.
    """
    _check_arguments(low, high, steps, smoothing, bound)
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    average, divergence = 0.0, None
    ratio = (high / low) ** (1.0 / (steps - 1))
    with trial(trainer):
        use_rate(trainer.optimizer, LambdaDecay(low, lambda step: ratio**step))
        results = _results(trainer, loader)
        for index in range(steps):
            rate = low * ratio**index
            try:
                result = next(results)
            except NonFiniteLossError:
                divergence = rate
                break
            if result.is_skipped:
                divergence = rate
                break
            average = smoothing * average + (1.0 - smoothing) * result.loss
            rates.append(rate)
            losses.append(result.loss)
            smoothed.append(average / (1.0 - smoothing ** (index + 1)))
            if smoothed[-1] > bound * min(smoothed):
                divergence = rate
                break
    if len(rates) < _FEWEST:
        raise TrainingError(
            f"learning-rate test: expected at least {_FEWEST} steps before the loss explodes, got {len(rates)}: "
            f"it explodes at the rate {divergence:g}. Start lower than {low:g}"
        )
    return LearningRateCurve(tuple(rates), tuple(losses), tuple(smoothed), divergence)


def _results(trainer: Trainer, loader: Any) -> Iterator[StepResult]:
    """Train without end, epoch after epoch."""
    for epoch in count():
        batches = EpochBatches(loader, epoch, 0, None, trainer.strategy)
        # A process that has come to its end goes on with empty windows until all have.
        until_all_end: Iterable[list[Any]] = repeat([]) if trainer.strategy.ranks > 1 else ()
        is_empty = True
        for window in chain(windows(batches, trainer.accumulate), until_all_end):
            result = trainer._step.run(window, lambda index: f"range test, micro-batch {index + 1} of a step")
            if result.batches == 0:
                break
            is_empty = False
            yield result
        if is_empty:
            raise InvalidInputError("range test: expected a loader with at least one batch, got none")


def _check_arguments(low: float, high: float, steps: int, smoothing: float, bound: float) -> None:
    if not 0 < low < high < math.inf:
        raise InvalidInputError(f"low and high: expected 0 < low < high, got {low!r} and {high!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < _FEWEST:
        raise InvalidInputError(f"steps: expected an integer of {_FEWEST} or more, got {steps!r}")
    if not 0 <= smoothing < 1:
        raise InvalidInputError(f"smoothing: expected a number from 0 up to but not 1, got {smoothing!r}")
    if not bound > 1:
        raise InvalidInputError(f"bound: expected a number above 1, got {bound!r}")
