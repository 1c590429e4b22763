"""Export to ONNX: Paddle's program, converted by paddle2onnx in its own process, named, checked, proven."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paddle_infra._core.errors import ExportError, InvalidInputError, NameMismatch, UnsupportedError
from paddle_infra._core.extras import require
from paddle_infra.export._build import ExportReport, Plan, build, make_plan
from paddle_infra.export._dygraph import MODEL_FILE, PARAMETER_FILE, Layer, save_program
from paddle_infra.export._process import run_fresh
from paddle_infra.export._program import Program
from paddle_infra.export.manifest import Manifest
from paddle_infra.export.spec import DynamicAxes, TensorSpec
from paddle_infra.ops import implementation

ONNX_FILE = "model.onnx"
OPSETS = range(7, 22)
"""The operator sets that paddle2onnx 2.1 can write."""

_PURPOSE = "exporting to ONNX"
_CONVERSION_TIMEOUT_S = 600.0


def to_onnx(
    model: Layer,
    path: str | os.PathLike[str],
    example_inputs: Mapping[str, Any],
    *,
    opset: int = 17,
    dynamic_axes: DynamicAxes | None = None,
    output_names: Sequence[str] = ("logits",),
    labels: Sequence[str] | None = None,
    extra_files: Sequence[str | os.PathLike[str]] | None = None,
    metadata: Mapping[str, Any] | None = None,
    verify_inputs: Sequence[Mapping[str, Any]] | None = None,
    atol: float = 1e-4,
) -> ExportReport:
    """Write ``model`` as ONNX into the folder ``path``, proven equal to the Python model with ONNX Runtime.

    The folder holds ``model.onnx`` (inputs, outputs and dynamic axes carry the given names; labels and
    metadata are in its ``metadata_props``), ``manifest.json``, ``README.md``, ``example_inputs.npz`` and the
    extra files. Building, verifying and moving into place are those of
    :func:`paddle_infra.export.to_inference`, and so are the arguments not described here.

    Args:
        model: a ``paddle.nn.Layer``.
        path: folder to write.
        example_inputs: arrays by input name.
        opset: ONNX operator set, 7 to 21.
        dynamic_axes: which axes may vary and their names.
        output_names: names of the outputs.
        labels: class names for the last axis of the first output.
        extra_files: files to copy in.
        metadata: plain JSON values.
        verify_inputs: a list of inputs to verify with instead of the default sizes.
        atol: largest absolute difference allowed in an output.

    Raises:
        MissingExtraError: the extra ``[onnx]`` is not installed.
        InvalidInputError, InvalidDtypeError: an argument cannot be used.
        UnsupportedError: the model holds a custom operator, or needs a later opset.
        NameMismatch, DtypeMismatch, AxisMismatch, ValueMismatch: the export is not the same model.
        ExportError: the conversion failed; the message holds its output and the operators of the model.
        StorageError: a file could not be written.
    """
    if isinstance(opset, bool) or not isinstance(opset, int) or opset not in OPSETS:
        raise InvalidInputError(f"opset: expected {OPSETS[0]} to {OPSETS[-1]}, got {opset!r}")
    for package in ("onnx", "onnxruntime", "paddle2onnx"):
        require(package, extra="onnx", purpose=_PURPOSE)
    plan = make_plan(
        model,
        path,
        example_inputs,
        dynamic_axes=dynamic_axes,
        output_names=output_names,
        labels=labels,
        extra_files=extra_files,
        metadata=metadata,
        verify_inputs=verify_inputs,
        atol=atol,
    )
    return build(plan, lambda plan, folder: _write_model(plan, folder, opset))


def _write_model(plan: Plan, folder: Path, opset: int) -> Manifest:
    target = folder / ONNX_FILE
    with tempfile.TemporaryDirectory(prefix=".paddle-", dir=folder) as temporary:
        saved = Path(temporary)
        with implementation("reference"):  # ONNX knows no compiled operator: trace their plain form
            program = save_program(plan.model, saved, plan.inputs, [spec.name for spec in plan.outputs])
        if program.custom_operators:
            raise UnsupportedError(
                f"expected standard operators, but the model's forward holds {program.custom_operators}, "
                "which ONNX cannot express: call plain Paddle functions there instead"
            )
        program.store_doubles_as_floats()
        program.save()
        _convert(saved, program, target, opset)
    _finish(target, plan, opset)
    return Manifest(
        target="onnx", model=ONNX_FILE, parameters=None, inputs=plan.inputs, outputs=plan.outputs, opset=opset
    )


def _convert(saved: Path, program: Program, target: Path, opset: int) -> None:
    parameters = saved / PARAMETER_FILE
    request = {
        "model": str(saved / MODEL_FILE),
        "parameters": str(parameters) if parameters.is_file() else "",
        "output": str(target),
        "opset": opset,
    }
    with tempfile.TemporaryDirectory(prefix="paddle-infra-onnx-") as exchange:
        try:
            run_fresh(
                "paddle_infra.export._paddle2onnx", request, Path(exchange), timeout_s=_CONVERSION_TIMEOUT_S
            )
        except ExportError as error:
            raise ExportError(
                f"paddle2onnx cannot convert the model with the operators {program.operators}: {error}"
            ) from error


def _finish(path: Path, plan: Plan, opset: int) -> None:
    """Check the graph, name its dynamic axes, add labels and metadata."""
    import onnx

    graph_model = onnx.load(str(path))
    found = max(item.version for item in graph_model.opset_import if item.domain in ("", "ai.onnx"))
    if found != opset:
        raise UnsupportedError(f"this model needs opset {found} or later, asked for opset {opset}")
    _name_axes("input", graph_model.graph.input, plan.inputs)
    _name_axes("output", graph_model.graph.output, plan.outputs)
    graph_model.producer_name = "paddle_infra"
    facts = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in plan.metadata.items()
    }
    if plan.labels is not None:
        facts["labels"] = json.dumps(plan.labels, ensure_ascii=False)
    onnx.helper.set_model_props(graph_model, facts)
    try:
        onnx.checker.check_model(graph_model, full_check=True)
    except Exception as error:
        raise ExportError(f"paddle2onnx wrote an invalid graph for opset {opset}: {error}") from error
    onnx.save(graph_model, str(path))


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
