"""Checks of arguments. Each error names the argument, what was expected and what it got."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import paddle
from paddle.jit.marker import unified

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError

#: A dimension whose size a static program does not know.
UNKNOWN = -1


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise unless ``value`` is one of ``choices``.

    Raises:
        InvalidInputError: it is not.
    """
    if value not in choices:
        raise InvalidInputError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def check_positive(name: str, value: object) -> None:
    """Raise unless ``value`` is an integer, at least 1.

    Raises:
        InvalidInputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInputError(f"{name}: expected a positive integer, got {value!r}")


def check_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Return ``value`` as a float if it is a finite number in ``[low, high]``.

    Raises:
        InvalidDtypeError: it is not a number (a bool or a tensor is none).
        InvalidInputError: it is infinite, NaN or outside.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidDtypeError(f"{name}: expected a Python number, got {type(value).__name__}")
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidInputError(f"{name}: expected a finite number in [{low:g}, {high:g}], got {value!r}")
    return float(value)


def check_integer(name: str, value: object) -> int:
    """Return ``value`` if it is an int.

    Raises:
        InvalidDtypeError: it is not (a bool is none).
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidDtypeError(f"{name}: expected an int, got {type(value).__name__}")
    return value


def check_flag(name: str, value: object) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        InvalidDtypeError: it is something else.
    """
    if not isinstance(value, bool):
        raise InvalidDtypeError(f"{name}: expected True or False, got {type(value).__name__}")
    return value


def check_tensor(name: str, value: Any, dtypes: Sequence[str]) -> None:
    """Raise unless ``value`` is a Paddle tensor, or a value of a static program, of one of ``dtypes``.

    Args:
        name: Name of the argument.
        value: The argument.
        dtypes: Names such as ``"float32"``.

    Raises:
        InvalidDtypeError: it is no tensor, or has another dtype.
    """
    if not isinstance(value, (paddle.Tensor, paddle.pir.Value, paddle.static.Variable)):
        raise InvalidDtypeError(f"{name}: expected a paddle.Tensor, got {type(value).__name__}")
    found = dtype_name(value)
    if found not in dtypes:
        raise InvalidDtypeError(f"{name}: expected dtype {' or '.join(dtypes)}, got {found}")


def check_shape(name: str, value: Any, expected: Sequence[int], meaning: str) -> None:
    """Raise unless ``value`` has the shape ``expected``. Unknown dimensions (-1) on either side fit anything.

    Args:
        name: Name of the argument.
        value: A tensor.
        expected: The sizes; a tensor, which ``shape`` holds for an unknown one in code that ``to_static`` has
            rewritten, counts as unknown.
        meaning: What the sizes stand for, such as ``"[num_classes]"``.

    Raises:
        InvalidInputError: the number of dimensions or a size differs.
    """
    found = list(value.shape)
    expected = [e if isinstance(e, int) else UNKNOWN for e in expected]
    fits = len(found) == len(expected) and all(
        f == e or UNKNOWN in (f, e) for f, e in zip(found, expected, strict=True)
    )
    if not fits:
        raise InvalidInputError(f"{name}: expected shape {list(expected)} ({meaning}), got {found}")


def check_lengths(name: str, lengths: Any, most: int) -> None:
    """Raise unless all ``lengths``, where they are known already, are in ``[0, most]``.

    Raises:
        InvalidInputError: one is not; the message names its row.
    """
    if not paddle.in_dynamic_mode():
        return
    values = lengths.numpy()
    is_bad = (values < 0) | (values > most)
    if is_bad.any():
        row = int(is_bad.argmax())
        raise InvalidInputError(f"{name}[{row}]: expected a length in [0, {most}], got {values[row]}")


def dtype_name(value: Any) -> str:
    """Return the dtype of a tensor as a name such as ``"float32"``."""
    return str(value.dtype).rsplit(".", 1)[-1].lower()


def device_of(value: Any) -> str:
    """Return where a tensor is: ``"cpu"``, ``"gpu"`` or the name of another kind of device."""
    if not paddle.in_dynamic_mode():
        # A value of a program has no place yet: it will be where that runs.
        return str(paddle.get_device()).split(":")[0]
    place = value.place
    return "cpu" if place.is_cpu_place() else "gpu" if place.is_gpu_place() else str(place)


# Paddle's graph capture shall call them as they are, not rewrite their source: they are about what is known before
# a program runs, and its rewritten zip() takes no `strict`.
for _check in (check_lengths, check_shape, check_tensor):
    unified(_check)
