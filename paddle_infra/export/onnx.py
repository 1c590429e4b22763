"""Export to ONNX: Paddle's program, converted, named, checked, proven."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from paddle_infra._core.checks import check_choice
from paddle_infra._core.errors import ExportError, InvalidInputError, UnsupportedError
from paddle_infra._core.extras import require
from paddle_infra.export import _paddle2onnx_converter as paddle2onnx
from paddle_infra.export import lowering
from paddle_infra.export._build import ExportReport, Plan, build, make_plan
from paddle_infra.export._dygraph import Layer, save_program
from paddle_infra.export.manifest import Manifest
from paddle_infra.export.spec import DynamicAxes

ONNX_FILE, DATA_FILE = "model.onnx", "model.onnx.data"
Converter = Literal["auto", "native", "paddle2onnx"]
Attention = Literal["decomposed", "standard", "contrib"]
_CONVERTERS: tuple[Converter, ...] = ("auto", "native", "paddle2onnx")
_ATTENTIONS: tuple[Attention, ...] = ("decomposed", "standard", "contrib")
_OPSETS = range(min(paddle2onnx.OPSETS), max(lowering.OPSETS) + 1)
# Protocol buffers end at 2 GiB: larger weights go into a file of their own.
_LARGEST_MODEL_BYTES = 2**31 - 2**20


def to_onnx(
    model: Layer,
    path: str | os.PathLike[str],
    example_inputs: Mapping[str, Any],
    *,
    opset: int = 17,
    attention: Attention = "decomposed",
    converter: Converter = "auto",
    dynamic_axes: DynamicAxes | None = None,
    output_names: Sequence[str] = ("logits",),
    labels: Sequence[str] | None = None,
    extra_files: Sequence[str | os.PathLike[str]] | None = None,
    metadata: Mapping[str, Any] | None = None,
    verify_inputs: Sequence[Mapping[str, Any]] | None = None,
    max_sizes: Mapping[str, int] | None = None,
    value_ranges: Mapping[str, tuple[int, int]] | None = None,
    atol: float = 1e-4,
) -> ExportReport:
    """Write ``model`` as ONNX into the folder ``path``, proven equal to the Python model with ONNX Runtime.

    The folder holds ``model.onnx`` (inputs, outputs and dynamic axes carry the given names; labels and
    metadata are in its ``metadata_props``), ``model.onnx.data`` if the weights pass 2 GiB, ``manifest.json``,
    ``README.md``, ``example_inputs.npz`` and the extra files. Building, verifying and moving into place are those of
    :func:`paddle_infra.export.to_inference`, and so are the arguments not described here.

    Two converters: ``"native"``, this package's own, turns each operator of the program into ONNX with a function of
    its own (:func:`paddle_infra.export.lowers` adds more), and knows the compiled operators; ``"paddle2onnx"`` is
    Paddle's, in a process of its own. ``"auto"`` takes the native one wherever it knows all operators;
    ``manifest.converter`` says which one it was and why.

    Args:
        model: a ``paddle.nn.Layer``.
        path: folder to write.
        example_inputs: arrays by input name.
        opset: ONNX operator set: 13 to 23, with paddle2onnx 7 to 21.
        attention: how the native converter writes :func:`paddle_infra.ops.attention`: ``"decomposed"`` into products
            and a softmax; as ONNX's ``"standard"`` ``Attention`` (opset 23); or ``"contrib"``, ONNX Runtime's
            ``MultiHeadAttention``, which other engines do not know.
        converter: ``"auto"``, ``"native"`` or ``"paddle2onnx"``.
        dynamic_axes: which axes may vary and their names.
        output_names: names of the outputs.
        labels: class names for the last axis of the first output.
        extra_files: files to copy in.
        metadata: plain JSON values.
        verify_inputs: a list of inputs to verify with instead of the default sizes and edges.
        max_sizes: largest sizes of dynamic axes, to be tried.
        value_ranges: smallest and largest values of integer inputs, to be tried.
        atol: largest absolute difference allowed in an output.

    Raises:
        MissingExtraError: an extra, ``[onnx]`` or ``[paddle2onnx]``, is not installed.
        InvalidInputError, InvalidDtypeError: an argument cannot be used.
        UnsupportedError: no converter knows all operators, or one needs a later opset.
        NameMismatch, DtypeMismatch, AxisMismatch, ValueMismatch: the export is not the same model.
        ExportError: the conversion failed; the message holds its output and the operators of the model.
        StorageError: a file could not be written.
    """
    check_choice("converter", converter, _CONVERTERS)
    check_choice("attention", attention, _ATTENTIONS)
    _check_opset(opset, converter, attention)
    for package in ("onnx", "onnxruntime"):
        require(package, extra="onnx", purpose="exporting to ONNX")
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
        max_sizes=max_sizes,
        value_ranges=value_ranges,
        atol=atol,
    )
    write: dict[str, Callable[[Plan, Path], tuple[Any, str]]] = {
        "auto": lambda plan, folder: _convert(plan, folder, opset, attention),
        "native": lambda plan, folder: (_native(plan, folder, opset, attention), "native: asked for"),
        "paddle2onnx": lambda plan, folder: (
            paddle2onnx.convert(plan, folder, opset),
            "paddle2onnx: asked for",
        ),
    }

    def write_model(plan: Plan, folder: Path) -> Manifest:
        graph_model, decision = write[converter](plan, folder)
        _save(graph_model, folder, plan, opset)
        manifest = Manifest(
            target="onnx", model=ONNX_FILE, parameters=None, inputs=plan.inputs, outputs=plan.outputs
        )
        return replace(manifest, opset=opset, converter=decision)

    return build(plan, write_model)


def _check_opset(opset: Any, converter: Converter, attention: Attention) -> None:
    ranges = {"auto": _OPSETS, "native": lowering.OPSETS, "paddle2onnx": paddle2onnx.OPSETS}
    allowed = ranges[converter]
    if isinstance(opset, bool) or not isinstance(opset, int) or opset not in allowed:
        raise InvalidInputError(f"opset: expected {allowed[0]} to {allowed[-1]}, got {opset!r}")
    if attention == "standard" and opset < 23:
        raise InvalidInputError(f"attention='standard': expected opset 23, which has Attention, got {opset}")
    if attention != "decomposed" and converter == "paddle2onnx":
        raise InvalidInputError(
            f"attention: expected 'decomposed' with converter='paddle2onnx', got {attention!r}"
        )


def _convert(plan: Plan, folder: Path, opset: int, attention: Attention) -> tuple[Any, str]:
    """Convert with the native converter, else with paddle2onnx; return the model, and why this one."""
    if opset not in lowering.OPSETS:
        reason = (
            f"the native converter writes opset {lowering.OPSETS[0]} to {lowering.OPSETS[-1]}, not {opset}"
        )
    else:
        try:
            return _native(plan, folder, opset, attention), "native: it has a lowering for every operator"
        except UnsupportedError as error:
            reason = str(error)
    if attention != "decomposed" or opset not in paddle2onnx.OPSETS:
        raise UnsupportedError(
            f"the native converter cannot: {reason}. paddle2onnx writes opset 7 to 21 and decomposed attention only"
        )
    try:
        return paddle2onnx.convert(plan, folder, opset), f"paddle2onnx: {reason}"
    except ExportError as error:
        raise type(error)(f"the native converter cannot: {reason}. Nor can paddle2onnx: {error}") from error


def _native(plan: Plan, folder: Path, opset: int, attention: Attention) -> Any:
    with tempfile.TemporaryDirectory(prefix=".paddle-", dir=folder) as temporary:
        saved = Path(temporary)
        save_program(plan.model, saved, plan.inputs, [spec.name for spec in plan.outputs])
        return lowering.convert(saved / "model", plan.inputs, plan.outputs, opset=opset, attention=attention)


def _save(graph_model: Any, folder: Path, plan: Plan, opset: int) -> None:
    """Add labels and metadata, check the graph, write it."""
    onnx = require("onnx", extra="onnx", purpose="exporting to ONNX")
    graph_model.producer_name = "paddle_infra"
    facts = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in plan.metadata.items()
    }
    if plan.labels is not None:
        facts["labels"] = json.dumps(plan.labels, ensure_ascii=False)
    onnx.helper.set_model_props(graph_model, facts)
    path = str(folder / ONNX_FILE)
    if sum(len(tensor.raw_data) for tensor in graph_model.graph.initializer) < _LARGEST_MODEL_BYTES:
        onnx.save(graph_model, path)
    else:
        onnx.save(graph_model, path, save_as_external_data=True, location=DATA_FILE, size_threshold=1024)
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise UnsupportedError(
            f"opset {opset}: expected onnx with that operator set, to check the graph, got onnx {onnx.__version__} "
            f"with {newest}: pip install -U onnx"
        )
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:
        raise ExportError(f"the converter wrote an invalid graph for opset {opset}: {error}") from error
