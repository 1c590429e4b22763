"""The second converter: paddle2onnx, in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddle_infra._core.errors import ExportError, NameMismatch, UnsupportedError
from paddle_infra._core.extras import require
from paddle_infra.export._build import Plan
from paddle_infra.export._dygraph import MODEL_FILE, PARAMETER_FILE, save_program
from paddle_infra.export._process import run_fresh
from paddle_infra.export._program import Program
from paddle_infra.export.spec import TensorSpec
from paddle_infra.ops import implementation

OPSETS = range(7, 22)
"""The operator sets that paddle2onnx 2.1 can write."""

_TIMEOUT_S = 600.0


def convert(plan: Plan, folder: Path, opset: int) -> Any:
    """Return the ONNX model that paddle2onnx makes, with the plan's names of axes.

    Args:
        plan: what to export.
        folder: where temporary files may be written.
        opset: ONNX operator set, 7 to 21.

    Raises:
        MissingExtraError: paddle2onnx is not installed.
        UnsupportedError: the model holds a custom operator, or needs a later opset.
        ExportError: the conversion failed; the message holds its output and the operators of the model.
    """
    require("paddle2onnx", extra="paddle2onnx", purpose="converting with paddle2onnx")
    onnx = require("onnx", extra="onnx", purpose="exporting to ONNX")
    with tempfile.TemporaryDirectory(prefix=".paddle-", dir=folder) as temporary:
        saved = Path(temporary)
        with implementation("reference"):  # it knows no compiled operator: trace their plain form
            program = save_program(plan.model, saved, plan.inputs, [spec.name for spec in plan.outputs])
        if program.custom_operators:
            raise UnsupportedError(
                f"expected standard operators, but the model's forward holds {program.custom_operators}, "
                "which paddle2onnx cannot express: call plain Paddle functions there instead"
            )
        program.store_doubles_as_floats()
        program.save()
        target = saved / "converted.onnx"
        _run(saved, program, target, opset)
        model = onnx.load(str(target))
    found = max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if found != opset:
        raise UnsupportedError(f"this model needs opset {found} or later, asked for opset {opset}")
    _name_axes("input", model.graph.input, plan.inputs)
    _name_axes("output", model.graph.output, plan.outputs)
    return model


def _run(saved: Path, program: Program, target: Path, opset: int) -> None:
    parameters = saved / PARAMETER_FILE
    request = {
        "model": str(saved / MODEL_FILE),
        "parameters": str(parameters) if parameters.is_file() else "",
        "output": str(target),
        "opset": opset,
    }
    with tempfile.TemporaryDirectory(prefix="paddle-infra-onnx-") as exchange:
        try:
            run_fresh("paddle_infra.export._paddle2onnx", request, Path(exchange), timeout_s=_TIMEOUT_S)
        except ExportError as error:
            raise ExportError(
                f"paddle2onnx cannot convert the model with the operators {program.operators}: {error}"
            ) from error


def _name_axes(kind: str, values: Any, specs: Sequence[TensorSpec]) -> None:
    """paddle2onnx calls dynamic axes ``DynamicDimension.<n>``: give them the user's names."""
    names = [value.name for value in values]
    if names != [spec.name for spec in specs]:
        raise NameMismatch(f"{kind}s: expected {[spec.name for spec in specs]}, the ONNX graph has {names}")
    for value, spec in zip(values, specs, strict=True):
        dims = value.type.tensor_type.shape.dim
        for axis, name in spec.axes.items():
            if axis < len(dims) and dims[axis].HasField("dim_param"):
                dims[axis].dim_param = name
