"""Paddle Inference exports that multiply in bfloat16 on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paddle_infra._core.checks import check_choice, check_number
from paddle_infra._core.errors import UnsupportedError
from paddle_infra.compress.gate import AccuracyGate, gated
from paddle_infra.compress.sublayers import Layer
from paddle_infra.export import ExportReport
from paddle_infra.export._build import Plan, build, make_plan
from paddle_infra.export._dygraph import MODEL_FILE
from paddle_infra.export._program import Program
from paddle_infra.export.inference import write_program
from paddle_infra.export.manifest import BFLOAT16_ENGINE, Manifest
from paddle_infra.export.spec import DynamicAxes
from paddle_infra.ops import set_matmul_precision

PRODUCTS = ("operators", "engine")


def to_inference_bfloat16(
    model: Layer,
    path: str | os.PathLike[str],
    example_inputs: Mapping[str, Any],
    *,
    atol: float,
    products: str = "operators",
    gate: AccuracyGate | None = None,
    dynamic_axes: DynamicAxes | None = None,
    output_names: Sequence[str] = ("logits",),
    labels: Sequence[str] | None = None,
    extra_files: Sequence[str | os.PathLike[str]] | None = None,
    metadata: Mapping[str, Any] | None = None,
    verify_inputs: Sequence[Mapping[str, Any]] | None = None,
) -> ExportReport:
    """Export for Paddle Inference with factors of matrix products rounded to bfloat16, sums in float32.

    ================ =================================================================================================
    ``products``     whose
    ================ =================================================================================================
    ``"operators"``  this package's compiled operators, as with ``ops.set_matmul_precision("medium")``; float32 files
    ``"engine"``     Paddle's own operators, by ``Config.enable_mkldnn_bfloat16``: whoever loads the export without
                     :func:`paddle_infra.export.load_predictor` must call that too
    ================ =================================================================================================

    Faster on processors that multiply bfloat16 (AVX512-BF16, AMX); elsewhere only less exact. Unlike an export made
    while "medium" is set, this one is compared with the model in **float32**. ``manifest.compression`` says what was
    done.

    Args:
        model: as for :func:`paddle_infra.export.to_inference`, and so are the arguments not described here.
        path: see there.
        example_inputs: see there.
        atol: largest absolute difference from the float32 model allowed in an output.
        products: see above.
        gate: measures the export and refuses it if it lost too much.
        dynamic_axes: see there.
        output_names: see there.
        labels: see there.
        extra_files: see there.
        metadata: see there.
        verify_inputs: see there.

    Raises:
        UnsupportedError: the program has no such operator that multiplies matrices.
        AccuracyLossError: the gate refused.
        Exception: as :func:`paddle_infra.export.to_inference`.
    """
    check_choice("products", products, PRODUCTS)
    check_number("atol", atol, 0.0)

    def make(folder: str | os.PathLike[str]) -> ExportReport:
        with set_matmul_precision("highest"):
            plan = make_plan(
                model,
                folder,
                example_inputs,
                dynamic_axes=dynamic_axes,
                output_names=output_names,
                labels=labels,
                extra_files=extra_files,
                metadata=metadata,
                verify_inputs=verify_inputs,
                atol=atol,
            )
        return build(plan, lambda plan, where: _write(plan, where, products))

    return make(path) if gate is None else gated(gate, make, path)


def _write(plan: Plan, folder: Path, products: str) -> Manifest:
    with set_matmul_precision("medium" if products == "operators" else "highest"):
        manifest = write_program(plan, folder)
    operators = Program(folder / MODEL_FILE).operators
    beginnings = {
        "operators": ("custom_op.paddle_infra_linear", "custom_op.paddle_infra_attention"),
        "engine": ("pd_op.matmul", "pd_op.conv2d"),
    }[products]
    affected = [name for name in operators if name.startswith(beginnings)]
    if not affected:
        raise UnsupportedError(
            f"products={products!r}: expected a program with operators {' or '.join(beginnings)}…, got {operators}"
        )
    compression = {BFLOAT16_ENGINE if products == "engine" else "bfloat16_operators": affected}
    return replace(manifest, compression=compression)
