"""Checks what operators that normalize rows have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from paddle_infra._core import extension
from paddle_infra._core.checks import (
    check_choice,
    check_flag,
    check_number,
    check_shape,
    check_tensor,
    device_of,
    dtype_name,
)
from paddle_infra._core.errors import InvalidInputError

NORMS = ("layer", "rms")
FLOATS = ("float32", "float64", "float16", "bfloat16")
_LARGEST = float(np.finfo("float32").max)


def check_like(name: str, value: Any, like_name: str, like: paddle.Tensor, dtype: str | None = None) -> None:
    """Raise unless ``value`` is a tensor of ``dtype`` (that of ``like`` if None), where ``like`` is.

    Raises:
        InvalidDtypeError: it is no tensor, or has another dtype.
        InvalidInputError: it is on another device.
    """
    check_tensor(name, value, (dtype or dtype_name(like),))
    expected, found = device_of(like), device_of(value)
    if found != expected:
        raise InvalidInputError(
            f"{name}: expected a tensor on {expected}, where {like_name} is, got one on {found}"
        )


def check_weights(weight: Any, bias: Any, like_name: str, like: paddle.Tensor, size: int) -> None:
    """Check weight and bias of a norm over ``size`` features; None is fine.

    Raises:
        InvalidDtypeError: one is no tensor, or has another dtype than ``like``.
        InvalidInputError: one has another shape than ``[size]``, or is on another device than ``like``.
    """
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            check_like(name, value, like_name, like)
            check_shape(name, value, [size], "[D]")


def check_numbers(norm: str, epsilon: float, dropout_p: float, training: bool) -> tuple[bool, float, float]:
    """Return whether it is an RMS norm, epsilon, and the probability of dropping that counts.

    Raises:
        InvalidDtypeError: one has an unsuitable type.
        InvalidInputError: one is out of range.
    """
    check_choice("norm", norm, NORMS)
    check_number("epsilon", epsilon, 0.0, _LARGEST)
    check_number("dropout_p", dropout_p)
    if not (dropout_p >= 0.0 and float(np.float32(dropout_p)) < 1.0):
        raise InvalidInputError(f"dropout_p: expected a probability in [0, 1), got {dropout_p!r}")
    is_training = check_flag("training", training)
    return norm == "rms", float(epsilon), float(dropout_p) if is_training else 0.0


def are_usual(norm: Any, epsilon: Any, dropout_p: Any, training: Any) -> bool:
    """Whether these go to a compiled operator as they are: what it does not check, and types."""
    return (
        type(norm) is str
        and norm in NORMS
        and type(epsilon) is float
        and type(dropout_p) is float
        and 0.0 <= dropout_p < 0.9999999
        and type(training) is bool
    )


def is_usual_tensor(value: Any) -> bool:
    """Whether a compiled operator takes the tensor as its first one (it compares the others with that)."""
    return isinstance(value, paddle.Tensor) and value.dtype is paddle.float32 and value.place.is_cpu_place()


def fused_refusals(name: str, like: paddle.Tensor) -> list[str]:
    """Say why compiled operators cannot take arguments whose dtype and place are those of ``like``."""
    status = extension.load()
    reasons = [] if status.is_loaded else [status.explain()]
    dtype = dtype_name(like)
    if dtype != "float32":
        reasons.append(f"the compiled kernel computes in float32, {name} is {dtype}")
    device = device_of(like)
    if device != "cpu":
        reasons.append(f"there is a compiled kernel for cpu only so far, {name} is on {device}")
    if not paddle.framework.in_dynamic_or_pir_mode():
        reasons.append(
            "compiled operators need dynamic mode or Paddle's PIR programs, this is a legacy static program"
        )
    return reasons


def reference_refusals(like: paddle.Tensor) -> list[str]:
    """Say why plain Paddle cannot take arguments whose dtype and place are those of ``like``."""
    dtype = dtype_name(like)
    if dtype in ("float16", "bfloat16") and device_of(like) == "cpu":
        return [f"Paddle has no {dtype} addition on the CPU: use float32"]
    return []


def or_constant(tensor: paddle.Tensor | None, value: float, size: int) -> paddle.Tensor:
    """Return the tensor, or for None a constant row: where a compiled operator requires one."""
    return paddle.full([size], value, "float32") if tensor is None else tensor
