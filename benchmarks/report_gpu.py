"""Writes the table of docs/cuda.md from the latest rows of bench_gpu.py: measured beside predicted."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._harness import ROOT
from benchmarks._report_markdown import NOTHING, fill, markdown_table, ratio
from benchmarks._report_rows import read_rows

PAGE = ROOT / "docs/cuda.md"
MISSING = "*Not measured: no GPU has run the kernels yet. `make bench-gpu` measures and fills this in.*"
OURS = "paddle_infra"


def gpu_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return milliseconds, TFLOP/s, the prediction, and the time of the fastest other one over ours."""
    cases: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:  # later rows of a case replace earlier ones
        key = tuple(row[name] for name in ("gpu", "batch", "length", "heads", "head_dim", "is_causal"))
        cases.setdefault(key, {})[row["contestant"]] = row
    lines = []
    for (gpu, batch, length, heads, head_dim, is_causal), found in cases.items():
        ours = found[OURS]
        others = [row for name, row in found.items() if name != OURS]
        best = min(others, key=lambda row: row["median_ms"], default=None)
        predicted = ours["predicted_ms"]
        name = f"{batch:g} × {length:g} × {heads:g} × {head_dim:g}" + (
            ", causal" if is_causal is True else ""
        )
        cells = [f"{ours['median_ms']:.3f}", f"{predicted:.3f}" if predicted != "" else NOTHING]
        peer = f"{ratio(best['ratio_median'])} ({best['contestant']})" if best else NOTHING
        lines.append([str(gpu), name, *cells, f"{ours['teraflops']:.0f}", peer])
    header = [
        "GPU",
        "batch × length × heads × head_dim",
        "ms",
        "predicted",
        "TFLOP/s",
        "fastest other over ours",
    ]
    return markdown_table(header, lines) if lines else MISSING


def main() -> None:
    """Fill the page."""
    PAGE.write_text(
        fill(PAGE.read_text(encoding="utf-8"), {"table": gpu_table(read_rows("gpu_attention"))}, "gpu")
    )
    print(PAGE)


if __name__ == "__main__":
    main()
