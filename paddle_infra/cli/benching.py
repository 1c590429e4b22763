"""Time an export in every installed engine, and print the engines side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.inference import Benchmark
from paddle_infra.inference.backends import find_exports


def grid_of(path: Path, batches: Sequence[int], lengths: Sequence[int]) -> list[dict[str, int]]:
    """Return every combination of sizes, by the names of the export's axes.

    ``batches`` are of the dynamic axes that come first in an input, ``lengths`` of all others.

    Raises:
        InvalidInputError: sizes are given for axes that the export does not have.
    """
    inputs = find_exports(path)[0].manifest.inputs
    names = dict.fromkeys(name for spec in inputs for name in spec.axes.values())
    first = [name for name in names if any(spec.axes.get(0) == name for spec in inputs)]
    others = [name for name in names if name not in first]
    for option, sizes, axes in (("--batch", batches, first), ("--length", lengths, others)):
        if sizes and not axes:
            raise InvalidInputError(
                f"{option}: expected no sizes, the export's dynamic axes are {list(names)}, got {list(sizes)}"
            )
    return [
        {**dict.fromkeys(first if batches else (), batch), **dict.fromkeys(others if lengths else (), length)}
        for batch, length in itertools.product(batches or [0], lengths or [0])
    ]


def lines_of(found: Benchmark) -> Iterator[str]:
    """Yield the benchmark as a table: one block for each number of threads and each size."""
    yield (
        f"{found.precision}, {found.repeats} runs each, in a process for each engine; "
        f"outputs agree to {found.tolerance:g} * (1 + |output|)"
    )
    shown = None
    for row in found.rows:
        head = f"{row.threads} thread(s), " + ", ".join(f"{axis}={size}" for axis, size in row.sizes.items())
        if head != shown:
            yield ""
            yield f"{head:34}  p50 ms   p90 ms   p99 ms   runs/s  memory MB"
            shown = head
        memory = "?" if row.memory_mb is None else f"{row.memory_mb:.0f}"
        yield (
            f"{row.engine:34}{row.p50_ms:8.2f} {row.p90_ms:8.2f} {row.p99_ms:8.2f} {row.runs_per_s:8.1f} {memory:>10}"
            f"  {row.folder}"
        )
    if found.refused:
        yield ""
    for refused in found.refused:
        yield f"{refused.backend} with {refused.folder}: {refused.refusal.splitlines()[0]}"
