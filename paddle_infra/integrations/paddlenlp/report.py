"""What acceleration replaced, what it left, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Replaced:
    """A layer that has a fused form now.

    Attributes:
        name: as in ``model.named_sublayers()``.
        kind: name of its class.
        operators: what runs.
        unless: when the original code runs after all; empty: never.
    """

    name: str
    kind: str
    operators: str
    unless: str


@dataclass(frozen=True)
class Left:
    """A layer that stays as it was.

    Attributes:
        name: as in ``model.named_sublayers()``.
        kind: name of its class.
        reason: why.
    """

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class AccelerationReport:
    """What :func:`accelerate` did; ``print`` it.

    Attributes:
        model: name of the model's class.
        replaced: layers that have a fused form now, in the order of the model.
        left: layers with parameters, or of a kind that has a fused form, that stay as they were.
    """

    model: str
    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]
    _restore: Callable[[], None] = field(repr=False)

    def restore(self) -> None:
        """Give every layer its own class back. Doing it twice does no harm."""
        self._restore()

    def __str__(self) -> str:
        lines = [f"{self.model}: {len(self.replaced)} layers replaced, {len(self.left)} left"]
        kinds = Counter((entry.kind, entry.operators, entry.unless) for entry in self.replaced)
        for (kind, operators, unless), count in kinds.items():
            lines.append(f"  {count:3} {kind}: {operators}" + (f"; not if {unless}" if unless else ""))
        lines += [f"  left {entry.name} ({entry.kind}): {entry.reason}" for entry in self.left]
        return "\n".join(lines)
