"""What a search may choose from: ranges and lists, free of any search library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from paddle_infra._core.errors import InvalidInputError

_CHOICE_TYPES = (bool, int, float, str, type(None))  # what a study can store


@dataclass(frozen=True)
class FloatRange:
    """Floats from ``low`` to ``high``, both included.

    Args:
        low: the smallest value.
        high: the largest.
        log: whether to draw uniformly in the logarithm; needs ``low > 0``.

    Raises:
        InvalidInputError: the bounds are not finite or not in order, or not positive with ``log``.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_bounds(self, float)


@dataclass(frozen=True)
class IntegerRange:
    """Integers ``low``, ``low + step``, … up to ``high`` (included if a step falls on it).

    Args:
        low: the smallest value.
        high: the largest.
        log: whether to draw uniformly in the logarithm; needs ``low > 0`` and ``step == 1``.
        step: distance between neighbours.

    Raises:
        InvalidInputError: the bounds are no integers or not in order, the step is not positive, or either does
            not go with ``log``.
    """

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        _check_bounds(self, int)
        if not _is_number(self.step, int) or self.step < 1 or (self.log and self.step != 1):
            raise InvalidInputError(
                f"IntegerRange: expected a positive integer step (1 with log), got {self.step!r}, log={self.log}"
            )


@dataclass(frozen=True)
class Choice:
    """One of a list of values, without any order among them.

    Args:
        values: at least one; booleans, integers, floats, strings or None, all different.

    Raises:
        InvalidInputError: there is none, one is of another type, or one occurs twice.
    """

    values: tuple[Any, ...]

    def __init__(self, values: Any) -> None:
        if isinstance(values, (str, Mapping)) or not hasattr(values, "__iter__"):
            raise InvalidInputError(f"Choice: expected a list of values, got {values!r}")
        object.__setattr__(self, "values", tuple(values))
        if not self.values or any(type(value) not in _CHOICE_TYPES for value in self.values):
            raise InvalidInputError(
                f"Choice: expected at least one boolean, integer, float, string or None, got {self.values!r}"
            )
        if len({(type(value), value) for value in self.values}) != len(self.values):
            raise InvalidInputError(f"Choice: expected different values, got {self.values!r}")


Dimension = FloatRange | IntegerRange | Choice
_KINDS: dict[str, type[Any]] = {"float": FloatRange, "integer": IntegerRange, "choice": Choice}


def as_space(space: Mapping[str, Any]) -> dict[str, Dimension]:
    """Return the space with every dimension as an object.

    Args:
        space: by parameter name, a dimension or its form in a configuration file:
            ``{"type": "float", "low": 1e-5, "high": 1e-3, "log": True}``, ``{"type": "integer", …}``,
            ``{"type": "choice", "values": […]}``.

    Raises:
        InvalidInputError: it is empty, or a dimension has an unknown type or field or a bad value; the message
            names the parameter.
    """
    if not isinstance(space, Mapping) or not space:
        raise InvalidInputError(f"search space: expected at least one dimension by name, got {space!r}")
    return {str(name): _as_dimension(str(name), value) for name, value in space.items()}


def space_as_json(space: Mapping[str, Dimension]) -> dict[str, dict[str, Any]]:
    """Return the space in the form of a configuration file; :func:`as_space` takes it back."""
    kinds = {cls: kind for kind, cls in _KINDS.items()}
    plain: dict[str, dict[str, Any]] = {}
    for name, dimension in space.items():
        fields = asdict(dimension)
        if isinstance(dimension, Choice):
            fields["values"] = list(dimension.values)
        plain[name] = {"type": kinds[type(dimension)], **fields}
    return plain


def _as_dimension(name: str, value: Any) -> Dimension:
    if isinstance(value, (FloatRange, IntegerRange, Choice)):
        return value
    if not isinstance(value, Mapping) or value.get("type") not in _KINDS:
        raise InvalidInputError(
            f"search space: {name}: expected FloatRange, IntegerRange, Choice or a dict whose 'type' is one of "
            f"{sorted(_KINDS)}, got {value!r}"
        )
    fields = {key: item for key, item in value.items() if key != "type"}
    try:
        dimension: Dimension = _KINDS[value["type"]](**fields)
    except (TypeError, InvalidInputError) as error:
        raise InvalidInputError(f"search space: {name}: {error}") from error
    return dimension


def _is_number(value: Any, kind: type) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float) if kind is float else int)


def _check_bounds(dimension: FloatRange | IntegerRange, kind: type) -> None:
    low, high = dimension.low, dimension.high
    if not (_is_number(low, kind) and _is_number(high, kind) and math.isfinite(low) and math.isfinite(high)):
        what = "finite numbers" if kind is float else "integers"
        raise InvalidInputError(
            f"{type(dimension).__name__}: expected {what} low and high, got {low!r} and {high!r}"
        )
    if low > high or (dimension.log and low <= 0):
        needed = "0 < low <= high" if dimension.log else "low <= high"
        raise InvalidInputError(f"{type(dimension).__name__}: expected {needed}, got {low!r} and {high!r}")
