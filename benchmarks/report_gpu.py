"""Writes the tables of docs/cuda.md from the latest rows of bench_gpu.py: measured beside predicted.

Without rows it writes what the model predicts, and says that nobody has measured it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._gpu_cases import CASES, Case
from benchmarks._gpu_peaks import GPUS
from benchmarks._gpu_roofline import predict
from benchmarks._harness import ROOT
from benchmarks._report_markdown import NOTHING, fill, markdown_table, ratio
from benchmarks._report_rows import read_rows

PAGE = ROOT / "docs/cuda.md"
OURS = "paddle_infra"
MISSING = (
    "*Not measured: no GPU has run the kernels yet. These are **predictions** of the model, in milliseconds, with the "
    "unit that it takes for the busiest; `make bench-gpu` measures, and puts the measured times in their place.*"
)
SIZES = (
    "*Sizes: batch × length × heads × head_dim of attention, heads of keys in brackets; rows × features × classes of "
    "heads; all in bfloat16.*"
)
LAYOUT = (
    "*Ratios are the time of another over ours, the median over rounds; shares are of the published peak. "
    "L2 cache warm.*"
)


def is_shown(case: Case) -> bool:
    """Whether the table of predictions has the case: not every head_dim and mask."""
    is_half_of_pairs = getattr(case, "is_causal", True)
    return is_half_of_pairs and getattr(case, "length", 2048) >= 2048


def prediction_table() -> str:
    """Return the predictions for all known GPUs."""
    lines = []
    for case in filter(is_shown, CASES):
        found = [predict(case, gpu) for gpu in GPUS.values()]
        cells = [f"{1e3 * each.seconds:.3f} {each.unit}" for each in found]
        lines.append([case.kernel, case.label, *cells])
    header = ["kernel", "sizes", *(f"{name}: predicted" for name in GPUS)]
    return f"{MISSING} {SIZES}\n\n{markdown_table(header, lines)}"


def latest_runs(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], dict[str, Mapping[str, Any]]]:
    """Return the rows of each case by contestant: those of its latest run only."""
    cases: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found = cases.setdefault(tuple(row[name] for name in ("gpu", "kernel", "case")), {})
        if row["contestant"] == OURS:  # ours is the first row of a run
            found.clear()
        found[row["contestant"]] = row
    return cases


def gpu_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return times, the prediction, shares of the peaks, memory, and the fastest other one; or the predictions."""
    lines = []
    for (gpu, kernel, case), found in latest_runs(rows).items():
        ours = found[OURS]
        best = min(
            (row for name, row in found.items() if name != OURS),
            key=lambda row: row["median_ms"],
            default=None,
        )
        peer = f"{ratio(best['ratio_median'])} ({best['contestant']})" if best else NOTHING
        predicted = (
            f"{ours['predicted_ms']:.3f} {ours['bound_by']}" if ours["predicted_ms"] != "" else NOTHING
        )
        shares = [
            f"{ours[name]:.0%}" if ours[name] != "" else NOTHING for name in ("peak_share", "memory_share")
        ]
        spread = f"{ours['median_ms']:.3f} ({ours['q20_ms']:.3f} to {ours['q80_ms']:.3f})"
        figures = [f"{ours['teraflops']:.1f}", shares[0], f"{ours['gigabytes_per_second']:.0f}", shares[1]]
        lines.append([str(gpu), kernel, case, spread, predicted, *figures, f"{ours['peak_mb']:.0f}", peer])
    header = ["GPU", "kernel", "sizes", "ms (20 % to 80 %)", "predicted", "TFLOP/s", "of peak", "GB/s", "of peak",
              "MB", "fastest other over ours"]  # fmt: skip
    return f"{SIZES} {LAYOUT}\n\n{markdown_table(header, lines)}" if lines else prediction_table()


def main() -> None:
    """Fill the page."""
    table = gpu_table(read_rows("gpu"))
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), {"table": table}, "gpu"), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
