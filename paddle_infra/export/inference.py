"""Export to Paddle Inference: the PIR program and its parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from paddle_infra._core.checks import check_choice
from paddle_infra._core.errors import UnsupportedError
from paddle_infra.export._build import ExportReport, Plan, build, make_plan
from paddle_infra.export._dygraph import MODEL_FILE, PARAMETER_FILE, Layer, save_program
from paddle_infra.export.library import describe_library
from paddle_infra.export.manifest import Manifest
from paddle_infra.export.spec import DynamicAxes
from paddle_infra.ops import implementation

Ops = Literal["fused", "standard"]


def to_inference(
    model: Layer,
    path: str | os.PathLike[str],
    example_inputs: Mapping[str, Any],
    *,
    ops: Ops = "fused",
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
    """Write ``model`` for Paddle Inference into the folder ``path``, proven equal to the Python model.

    The folder holds ``model.json`` and ``model.pdiparams`` (inputs and outputs carry the given names),
    ``manifest.json``, ``README.md``, ``example_inputs.npz`` and the extra files. It is built under a
    temporary name, loaded by a fresh process, run at several sizes, compared, and only then moved into
    place: a failed export leaves no file and keeps an earlier one. The model is exported in evaluation mode
    and left exactly as it was.

    Args:
        model: a ``paddle.nn.Layer`` whose ``forward`` takes the inputs by name and returns one tensor, a
            tuple or a dict.
        path: folder to write; may be new, empty, or an earlier export.
        example_inputs: arrays by input name, of typical values; their dtypes and fixed sizes become the
            model's.
        ops: ``"fused"`` keeps this package's compiled operators, as far as they can run here, and the program needs
            the compiled library wherever it is loaded; ``"standard"`` writes Paddle's own operators in their place.
            The manifest says which operators the program has, and which library they need.
        dynamic_axes: which axes may vary and their names, ``{"input_ids": {0: "batch", 1: "length"}}``.
        output_names: names of the outputs in order; for a model that returns a dict, the keys to export.
        labels: class names for the last axis of the first output.
        extra_files: files to copy in, for instance a tokenizer.
        metadata: plain JSON values for the manifest and the model card.
        verify_inputs: a list of inputs to verify with instead of the default sizes (batch 1, 7, 32; length
            5, 16, 64) and edges. It must show at least two sizes of every dynamic axis.
        max_sizes: the largest size of a dynamic axis that the model takes, by its name, to be tried; by default
            ``max_position_embeddings`` of the model's ``config`` for the length of ``input_ids``.
        value_ranges: the smallest and the largest value of an integer input, to be tried, for instance
            ``{"input_ids": (0, 30521)}``; by default those of the ``config``'s ``vocab_size`` and ``type_vocab_size``,
            else those in the example.
        atol: largest absolute difference allowed in an output.

    Raises:
        InvalidInputError, InvalidDtypeError: an argument cannot be used.
        UnsupportedError: ``ops="standard"``, and a compiled operator has no other form.
        NameMismatch, DtypeMismatch, AxisMismatch, ValueMismatch: the export is not the same model.
        ExportError: Paddle cannot trace the model, or the fresh process fails.
        StorageError: a file could not be written.
    """
    check_choice("ops", ops, ("fused", "standard"))
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
    return build(plan, lambda plan, folder: write_program(plan, folder, ops))


def write_program(plan: Plan, folder: Path, ops: Ops = "fused") -> Manifest:
    """Write the program and its parameters; return what the manifest knows of them."""
    with implementation("reference") if ops == "standard" else nullcontext():
        program = save_program(plan.model, folder, plan.inputs, [spec.name for spec in plan.outputs])
    if ops == "standard" and program.custom_operators:
        raise UnsupportedError(
            f"ops='standard': expected a program of Paddle's own operators, got {program.custom_operators} too"
        )
    return Manifest(
        target="paddle",
        model=MODEL_FILE,
        parameters=PARAMETER_FILE if (folder / PARAMETER_FILE).is_file() else None,
        inputs=plan.inputs,
        outputs=plan.outputs,
        operators="fused" if program.custom_operators else "standard",
        custom_operators=tuple(program.custom_operators),
        library=describe_library(program.custom_operators),
    )
