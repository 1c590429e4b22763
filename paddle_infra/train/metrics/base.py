"""The metric protocol, the mean loss, and comparing values. Metrics keep sums, never outputs."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Literal, Protocol

import numpy as np

from paddle_infra._core.errors import InvalidInputError


class Metric(Protocol):
    """What an evaluator asks of a metric."""

    def update(self, **outputs: Any) -> None:
        """Add the outputs of one batch (NumPy arrays), ignoring those the metric does not use."""
        ...

    def compute(self) -> dict[str, float]:
        """Return the values over everything added since the last reset."""
        ...

    def reset(self) -> None:
        """Forget everything added."""
        ...

    def state(self) -> Any:
        """Return everything added as a picklable value, for other processes."""
        ...

    def add_state(self, state: Any) -> None:
        """Add what :meth:`state` returned in another process."""
        ...


class ExactSum:
    """A sum of floats without rounding: it does not depend on their order, nor on how they are spread over processes.

    References:
        Shewchuk, Adaptive precision floating-point arithmetic, 1997 (as in ``math.fsum``).
    """

    def __init__(self) -> None:
        self.parts: list[float] = []

    def add(self, value: float) -> None:
        """Add a float. An infinite one or NaN makes the sum so."""
        if not math.isfinite(value):
            self.parts = [sum(self.parts) + value]
            return
        kept = 0
        for part in self.parts:
            if abs(value) < abs(part):
                value, part = part, value
            high = value + part
            low = part - (high - value)
            if low:
                self.parts[kept] = low
                kept += 1
            value = high
        self.parts[kept:] = [value]

    def add_all(self, values: Any) -> None:
        """Add every element of an array, as :meth:`add` would one by one, but much faster.

        Mantissas are split into two halves of 26 and 27 bits, which are summed per exponent: with fewer than
        2**26 elements at a time these sums are integers below 2**53, and so exact.
        """
        array = np.asarray(values, np.float64).ravel()
        if not np.isfinite(array).all():
            self.add(float(array[~np.isfinite(array)].sum()))
            return
        for start in range(0, array.size, 1 << 25):
            mantissas, exponents = np.frexp(array[start : start + (1 << 25)])
            lowest = int(exponents.min())
            high = np.floor(np.ldexp(mantissas, 26))
            low = np.ldexp(mantissas, 53) - np.ldexp(high, 27)
            for part, bits in ((high, 26), (low, 53)):
                sums = np.bincount(exponents - lowest, weights=part)
                for offset in np.flatnonzero(sums):
                    self.add(math.ldexp(sums[offset], lowest + int(offset) - bits))

    def value(self) -> float:
        """Return the sum, rounded once."""
        return math.fsum(self.parts)

    def exact(self) -> Fraction:
        """Return the sum without rounding; it must be finite."""
        return sum(map(Fraction, self.parts), Fraction(0))


class MeanLoss:
    """Mean loss per valid item, as ``loss``.

    The evaluation step returns ``loss`` (mean of the batch) and ``items`` (its number of valid items).
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self._sum, self._items = ExactSum(), 0

    def update(self, *, loss: Any = None, items: Any = None, **_: Any) -> None:
        """Add a batch whose mean over ``items`` items is ``loss``."""
        if loss is None or items is None:
            raise InvalidInputError("MeanLoss: expected the evaluation outputs 'loss' and 'items'")
        if int(items):
            self._sum.add(float(np.asarray(loss).reshape(())) * int(items))
            self._items += int(items)

    def compute(self) -> dict[str, float]:
        """Return ``{"loss": mean}``; NaN if there was no valid item."""
        return {"loss": self._sum.value() / self._items if self._items else math.nan}

    def state(self) -> tuple[list[float], int]:
        """Return the sum, in exact parts, and the number of items."""
        return self._sum.parts, self._items

    def add_state(self, state: tuple[list[float], int]) -> None:
        """Add the sum and the items of another process."""
        for part in state[0]:
            self._sum.add(part)
        self._items += state[1]


class Perplexity(MeanLoss):
    """Perplexity, as ``perplexity``: the exponential of the mean loss per valid item (a token).

    The loss must be the natural logarithm of a probability, as cross entropy is. Inputs: see :class:`MeanLoss`.
    """

    def compute(self) -> dict[str, float]:
        """Return ``{"perplexity": value}``; infinite if it is beyond float64, NaN if there was no valid item."""
        loss = super().compute()["loss"]
        return {"perplexity": math.inf if loss > 709 else math.exp(loss)}


def metric_value(metrics: dict[str, float], name: str, who: str) -> float:
    """Return ``metrics[name]``.

    Raises:
        InvalidInputError: there is no such metric; the message lists those there are.
    """
    if name not in metrics:
        raise InvalidInputError(f"{who}: expected the validation metric {name!r}, got {sorted(metrics)}")
    return metrics[name]


def is_better(value: float, best: float | None, mode: Literal["max", "min"], min_delta: float = 0.0) -> bool:
    """Return whether ``value`` is better than ``best`` by more than ``min_delta``. NaN never is.

    Raises:
        InvalidInputError: the mode is neither "max" nor "min".
    """
    if mode not in ("max", "min"):
        raise InvalidInputError(f"mode: expected 'max' or 'min', got {mode!r}")
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value - best > min_delta if mode == "max" else best - value > min_delta
