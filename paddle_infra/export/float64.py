"""How far a float32 model is from its own mathematics: the same model in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from paddle_infra.export._dygraph import Layer, run_reference
from paddle_infra.export.cases import Case
from paddle_infra.export.spec import Arrays
from paddle_infra.ops import implementation


@dataclass(frozen=True)
class Float64Errors:
    """Largest absolute differences from the model in float64, by output; both empty if it cannot be run so.

    Attributes:
        model: of the Python model in float32.
        export: of the export.
        reason: why nothing was measured.
    """

    model: dict[str, float] = field(default_factory=dict)
    export: dict[str, float] = field(default_factory=dict)
    reason: str = "not measured"


def measure_float64(
    reference: Any, cases: Sequence[Case], expected: Sequence[Arrays], got: Sequence[Arrays]
) -> Float64Errors:
    """Run a copy of the model in float64, on Paddle's own operators, and compare both float32 results with it."""
    if not isinstance(reference, paddle.nn.Layer):
        return Float64Errors({}, {}, "the reference is no paddle.nn.Layer")
    if not cases:
        return Float64Errors()
    names = [name for name, array in expected[0].items() if array.dtype == np.float32]
    try:
        exact = _run(reference, [case.inputs for case in cases], list(expected[0]))
    except (
        Exception
    ) as error:  # of any kind: an operator without a float64 kernel, a layer that cannot be copied
        return Float64Errors({}, {}, f"the model cannot be run in float64: {_first_line(error)}")
    narrow = [name for name in names if exact[0][name].dtype != np.float64]
    if narrow or not names:
        return Float64Errors(
            {}, {}, f"no float64 result of {narrow or list(expected[0])}: the model casts it"
        )
    return Float64Errors(_largest(names, exact, expected), _largest(names, exact, got), "")


def _run(model: Layer, inputs: Sequence[Mapping[str, np.ndarray]], names: Sequence[str]) -> list[Arrays]:
    wide = copy.deepcopy(model)
    wide.to(dtype="float64")
    default = paddle.get_default_dtype()
    paddle.set_default_dtype("float64")  # for the tensors that forward makes
    try:
        with implementation("reference"):
            return [run_reference(wide, {n: _widened(a) for n, a in case.items()}, names) for case in inputs]
    finally:
        paddle.set_default_dtype(default)


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _largest(names: Sequence[str], exact: Sequence[Arrays], found: Sequence[Arrays]) -> dict[str, float]:
    with np.errstate(invalid="ignore"):
        return {
            name: max(
                float(np.nanmax(np.abs(e[name] - f[name]), initial=0.0))
                for e, f in zip(exact, found, strict=True)
            )
            for name in names
        }


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("-")]
    text = next((line for line in lines if "Error" in line), lines[-1] if lines else "")
    return f"{type(error).__name__}: {text[:200]}"
