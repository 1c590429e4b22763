"""Bugs planted in a copy of the CUDA sources: each has to be found by a check, else the checks are not worth much.

``python -m tests.cuda.mutations --write`` plants all of them and writes who found what into docs/cuda.md;
``python -m tests.cuda.mutations NAME ...`` some of them. To add another kernel: a :class:`Target` in
``TARGETS``, with the program that checks a library of it, and its bugs in ``MUTATIONS``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.cuda.attention_mutations import ATTENTION_FWD, Mutation
from tests.cuda.emulator import CSRC, build
from tests.cuda.test_sanitizers import build_driver, run

ROOT = CSRC.parent
PAGE = ROOT / "docs/cuda.md"
TSAN_CASES = 16


@dataclass(frozen=True)
class Target:
    """An operator whose kernels get bugs.

    Attributes:
        operator: Its folder of csrc.
        probe: Module that checks a library: ``python -m probe LIBRARY HEAD_DIM``.
        driver: Program of this folder for sanitizers.
    """

    operator: str
    probe: str
    driver: str


TARGETS = {"attention_fwd": Target("attention", "tests.cuda.mutation_probe", "attention_driver")}
MUTATIONS: dict[str, tuple[Mutation, ...]] = {"attention_fwd": ATTENTION_FWD}


def plant(target: Target, mutation: Mutation | None, csrc: Path) -> None:
    """Copy the sources to ``csrc``, compiled for one head dimension only, with the bug."""
    shutil.copytree(CSRC, csrc)
    dim = mutation.head_dim if mutation else 64
    instances = json.loads((csrc / "instances.json").read_text())
    for name, macros in instances.items():
        if name.startswith(f"{target.operator}/") and "PI_HEAD_DIM" in macros:
            macros["PI_HEAD_DIM"] = [dim]
    (csrc / "instances.json").write_text(json.dumps(instances))
    entry = csrc / target.operator / f"{target.operator}.cu"
    entry.write_text(re.sub(r"(launch_\w+<Format, )\d+>", rf"\g<1>{dim}>", entry.read_text()))
    if mutation is None:
        return
    file = csrc / mutation.file
    text = file.read_text()
    if text.count(mutation.old) < 1:
        raise ValueError(f"{mutation.name}: {mutation.file} does not contain {mutation.old!r} any more")
    file.write_text(text.replace(mutation.old, mutation.new, 1 if mutation.first_only else -1))


def find(target: Target, mutation: Mutation | None) -> str:
    """Return what finds a bug, the first of values, counters, emulator, ThreadSanitizer; "" if nothing does."""
    dim = mutation.head_dim if mutation else 64
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        csrc = folder / "csrc"
        plant(target, mutation, csrc)
        library = build([target.operator], folder / "values", csrc=csrc, flags=("-O1", "-Wno-error"))
        command = [sys.executable, "-W", "ignore", "-m", target.probe, str(library), str(dim)]
        probe = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if probe.returncode == 1 and probe.stdout:
            return probe.stdout.splitlines()[-1]
        if probe.returncode != 0:
            said = [line for line in probe.stderr.splitlines() if line.startswith("simt: ")]
            if not said:
                raise RuntimeError(f"the probe failed by itself: {probe.stderr[-2000:]}")
            return f"emulator: {said[0].removeprefix('simt: ')}"
        program = build_driver(target.driver, target.operator, "thread", folder / "thread", csrc)
        result = run(program, 0, TSAN_CASES, str(dim))
        if "data race" in result.stderr:
            where = re.search(r"SUMMARY: ThreadSanitizer: data race \S*/(\S+) in", result.stderr)
            return f"ThreadSanitizer: data race{f' at {where[1]}' if where else ''}"
        if result.returncode != 0:
            return f"driver: {result.stderr.splitlines()[-1]}"
        return ""


def table(found: dict[str, list[tuple[Mutation, str]]]) -> str:
    """Return the rows for the documentation."""
    lines = ["| kernel | planted bug | found by |", "|---|---|---|"]
    for kernel, rows in found.items():
        for mutation, finder in rows:
            # Numbers of errors, addresses and threads differ between machines.
            finder = re.sub(r": error \S+, allowed .*| \[block .*| at \S+:\d+$", "", finder)
            lines.append(f"| `{kernel}` | {mutation.name} | {finder or '**nothing**'} |")
    return "\n".join(lines)


def main() -> int:
    """Plant bugs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="bugs; default: all")
    parser.add_argument("--write", action="store_true", help="renew the table in docs/cuda.md")
    arguments = parser.parse_args()
    found: dict[str, list[tuple[Mutation, str]]] = {}
    for kernel, mutations in MUTATIONS.items():
        for mutation in mutations:
            if arguments.names and mutation.name not in arguments.names:
                continue
            finder = find(TARGETS[kernel], mutation)
            print(f"{kernel}: {mutation.name}: {finder or 'NOT FOUND'}", flush=True)
            found.setdefault(kernel, []).append((mutation, finder))
    if arguments.write:
        begin, end = "<!-- mutations begin -->\n", "<!-- mutations end -->"
        before, rest = PAGE.read_text().split(begin)
        PAGE.write_text(before + begin + table(found) + "\n" + end + rest.split(end)[1])
    return int(any(not finder for rows in found.values() for _, finder in rows))


if __name__ == "__main__":
    sys.exit(main())
