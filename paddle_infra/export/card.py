"""``README.md`` of an export: a model card that a stranger can use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paddle_infra._core.atomic import write_text
from paddle_infra.export.manifest import EXAMPLES_NAME, Manifest
from paddle_infra.export.spec import TensorSpec

CARD_NAME = "README.md"
_TITLES = {"paddle": "Paddle Inference", "onnx": "ONNX"}


def write_card(folder: Path, manifest: Manifest) -> None:
    """Write the model card of ``manifest`` into ``folder``."""
    write_text(folder / CARD_NAME, card_text(manifest))


def card_text(manifest: Manifest) -> str:
    """Return the model card as Markdown: inputs, outputs, labels, what was measured, how to run it."""
    title = str(manifest.metadata.get("name", "Exported model"))
    parts = [
        f"# {_cell(title)} ({_TITLES[manifest.target]})",
        _purpose(manifest),
        "## Inputs\n\n" + _tensor_table(manifest.inputs),
        "## Outputs\n\n" + _tensor_table(manifest.outputs),
        _labels(manifest),
        _verification(manifest),
        _facts("Compression", manifest.compression),
        "## Use\n\n" + _usage(manifest),
        _facts("Metadata", {k: v for k, v in manifest.metadata.items() if k not in ("name", "description")}),
        _facts("Made with", {**manifest.versions, "created": manifest.created}),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _purpose(manifest: Manifest) -> str:
    description = str(manifest.metadata.get("description", "")).strip()
    opset = f", opset {manifest.opset}" if manifest.opset else ""
    needs = (
        f"Needs the compiled operators of paddle_infra: {', '.join(manifest.custom_operators)}."
        if manifest.custom_operators
        else "Needs no operator library."
    )
    return "\n\n".join(filter(None, [description, f"Model file: `{manifest.model}`{opset}. {needs}"]))


def _tensor_table(specs: Sequence[TensorSpec]) -> str:
    rows = [(f"`{spec.name}`", spec.dtype, " x ".join(map(str, spec.shape)) or "scalar") for spec in specs]
    return _table(("name", "dtype", "shape (a name is a dynamic axis)"), rows)


def _labels(manifest: Manifest) -> str:
    if manifest.labels is None:
        return ""
    rows = [(str(index), name) for index, name in enumerate(manifest.labels)]
    return f"## Labels of the last axis of `{manifest.outputs[0].name}`\n\n" + _table(
        ("index", "label"), rows
    )


def _verification(manifest: Manifest) -> str:
    report = manifest.verification
    if report is None:
        return ""
    rows = [
        (case["name"], *(_number(case["max_errors"].get(name)) for name in report["outputs"]))
        for case in report["cases"]
    ]
    relative = f" + {report['rtol']:g} * |expected|" if report["rtol"] else ""
    return (
        "## Verification\n\n"
        f"Run in a fresh process with {report['engine']} and compared with "
        f"{report.get('reference', 'the Python model')}: "
        f"the largest absolute error is **{report['max_error']:.3g}**, "
        f"allowed {report['atol']:g}{relative}.\n\n"
        + _table(("case", *(f"max error of `{name}`" for name in report["outputs"])), rows)
        + _float64(report.get("float64", {}))
    )


def _float64(measured: Mapping[str, Any]) -> str:
    if not measured.get("model"):
        return ""
    rows = [
        (f"`{name}`", _number(error), _number(measured["export"][name]))
        for name, error in measured["model"].items()
    ]
    header = ("distance from the model in float64", "of the Python model", "of the export")
    return "\n\n" + _table(header, rows)


def _number(value: float | None) -> str:
    return "not compared" if value is None else f"{value:.3g}"


def _usage(manifest: Manifest) -> str:
    if manifest.target == "onnx":
        body = (
            f'session = onnxruntime.InferenceSession("{manifest.model}")\n'
            f'inputs = dict(numpy.load("{EXAMPLES_NAME}"))\n'
            "outputs = session.run(None, inputs)"
        )
        return f"```python\nimport numpy\nimport onnxruntime\n\n{body}\n```"
    return (
        "```python\nimport numpy\nfrom paddle_infra.export import load_predictor\n\n"
        'predict = load_predictor(".")\n'
        f'outputs = predict(dict(numpy.load("{EXAMPLES_NAME}")))\n```'
    )


def _facts(title: str, facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    texts = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in facts.items()]
    return f"## {title}\n\n" + _table(("", ""), texts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
