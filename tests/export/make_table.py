"""Writes ``docs/export_table.md``: every layer and model exported to every target, with its largest error or refusal.

    python -m tests.export.make_table [name ...]

With names only these are printed. Exports are verified in this one process, so that it takes minutes.
"""

from __future__ import annotations

import re
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import paddle

from paddle_infra._core.atomic import write_text
from paddle_infra._core.errors import PaddleInfraError
from paddle_infra.export import to_inference, to_onnx
from paddle_infra.export.spec import as_arrays
from tests.export.in_process import worker_in_process
from tests.export.table_cases import LAYERS, NOT_EXPORTED, Row
from tests.export.table_models import MODELS

PAGE = Path(__file__).parents[2] / "docs" / "export_table.md"
TARGETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Paddle, fused": (to_inference, {"ops": "fused"}),
    "Paddle, standard": (to_inference, {"ops": "standard"}),
    "ONNX, decomposed": (to_onnx, {"converter": "native"}),
    "ONNX, contrib": (to_onnx, {"converter": "native", "attention": "contrib"}),
    "ONNX, standard": (to_onnx, {"converter": "native", "attention": "standard", "opset": 23}),
    "paddle2onnx": (to_onnx, {"converter": "paddle2onnx"}),
}
_HEAD = """# What can be exported, and how exactly

Each layer and model of the package, small and with random weights, exported to each target: the largest absolute
difference from the Python model over all sizes and edges that verification tries (allowed: 1e-4; of large values,
relative to the largest), or how the export was refused. Made by `python -m tests.export.make_table` with
{versions}."""


def cell(row: Row, exporter: Any, options: dict[str, Any], folder: Path) -> tuple[str, str]:
    """Export; return the table's cell, and the whole text of a refusal."""
    paddle.seed(0)
    try:
        report = exporter(
            row.make(),
            folder,
            as_arrays(row.inputs),
            dynamic_axes=row.dynamic_axes,
            output_names=row.output_names,
            **options,
        )
    except PaddleInfraError as error:
        return type(error).__name__, " ".join(str(error).split())
    return f"{report.verification.max_error:.1e}", ""


def table(title: str, rows: dict[str, Row], refusals: list[str]) -> list[str]:
    lines = ["", f"| {title} | " + " | ".join(TARGETS) + " |", "| --- " * (1 + len(TARGETS)) + "|"]
    for name, row in rows.items():
        cells = []
        for target, (exporter, options) in TARGETS.items():
            with tempfile.TemporaryDirectory() as temporary, worker_in_process():
                text, reason = cell(row, exporter, options, Path(temporary, "export"))
            if reason:
                refusals.append(f"- {name}, {target}: {shortened(reason)}")
            cells.append(text)
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def shortened(reason: str) -> str:
    """Leave out what differs from run to run, and the length."""
    text = re.sub(r"/\S+/", "", re.sub(r"0x[0-9a-f]+", "", reason)).replace("|", "/").replace("`", "'")
    return text if len(text) <= 240 else text[:240] + " …"


def main(names: list[str]) -> None:
    refusals: list[str] = []
    packages = ("paddlepaddle", "onnx", "onnxruntime", "paddle2onnx")
    lines = [_HEAD.format(versions=", ".join(f"{name} {metadata.version(name)}" for name in packages))]
    for title, rows in (("model", MODELS), ("layer", LAYERS)):
        lines += table(title, {n: row for n, row in rows.items() if not names or n in names}, refusals)
    lines += ["", "## Refusals", "", "Nothing is written then; the text is that of the error.", "", *refusals]
    lines += ["", "## Not exported by themselves", ""]
    lines += [f"- `{name}`: {reason}" for name, reason in sorted(NOT_EXPORTED.items())]
    if names:
        print("\n".join(lines))
    else:
        write_text(PAGE, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
