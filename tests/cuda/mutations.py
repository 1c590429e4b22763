"""Bugs planted in a copy of the CUDA sources: each has to be found by a check, else the checks are not worth much.

``python -m tests.cuda.mutations --write`` plants all of them and writes who found what into docs/cuda.md;
``python -m tests.cuda.mutations NAME ...`` those of some kernels, or some bugs. To add another kernel: a
:class:`~tests.cuda.mutation.Target` in ``TARGETS``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cuda.attention_bwd_mutations import ATTENTION_BWD
from tests.cuda.attention_decode_mutations import ATTENTION_DECODE
from tests.cuda.attention_f32_mutations import ATTENTION_F32
from tests.cuda.attention_fwd_mutations import ATTENTION_FWD
from tests.cuda.emulator import CSRC, build
from tests.cuda.linear_cross_entropy_f32_mutations import LINEAR_CROSS_ENTROPY_F32
from tests.cuda.linear_cross_entropy_mutations import LINEAR_CROSS_ENTROPY
from tests.cuda.linear_topk_mutations import LINEAR_TOPK
from tests.cuda.mutation import Mutation, Target
from tests.cuda.test_sanitizers import build_driver, run

ROOT = CSRC.parent
PROBE_S = 600  # far more than a probe takes: a kernel with a bug may never end
PAGE = ROOT / "docs/cuda.md"
BEGIN, END = "<!-- mutations begin -->", "<!-- mutations end -->"

TARGETS = {
    target.name: target
    for target in (
        *(ATTENTION_FWD, ATTENTION_BWD, ATTENTION_DECODE, ATTENTION_F32),
        *(LINEAR_CROSS_ENTROPY, LINEAR_CROSS_ENTROPY_F32, LINEAR_TOPK),
    )
}


def plant(target: Target, bug: Mutation | None, csrc: Path) -> None:
    """Copy the sources to ``csrc``, compiled for the target's instances only, with the bug."""
    shutil.copytree(CSRC, csrc)
    choose_instances(target, bug, csrc)
    if bug is not None:
        file = csrc / (bug.file or target.file)
        file.write_text(with_bug(target, bug, file.read_text()))


def with_bug(target: Target, bug: Mutation, text: str) -> str:
    """Return a source with a bug."""
    if bug.old not in text:
        raise ValueError(f"{target.name}, {bug.name}: the source does not contain {bug.old!r} any more")
    return text.replace(bug.old, bug.new, 1 if bug.first_only else -1)


def choose_instances(target: Target, bug: Mutation | None, csrc: Path) -> None:
    """Leave out sources and instances that the target does not need."""
    for path in (csrc / target.operator).glob("*.cu"):
        if path.name not in target.sources:
            path.unlink()
    chosen = {**target.macros, **(bug.macros if bug else {})}
    instances = json.loads((csrc / "instances.json").read_text())
    for name, macros in instances.items():
        if name.startswith(f"{target.operator}/"):
            macros.update((macro, values) for macro, values in chosen.items() if macro in macros)
    (csrc / "instances.json").write_text(json.dumps(instances))
    for pin in target.pins:
        file = csrc / pin.file
        text, count = re.subn(
            pin.pattern, pin.replacement.format(**target.first_values(bug)), file.read_text()
        )
        if count == 0:
            raise ValueError(f"{target.name}: {pin.file} does not match {pin.pattern!r} any more")
        file.write_text(text)


def find(target: Target, bug: Mutation | None) -> str:
    """Return what finds a bug, the first of values, counters, emulator, ThreadSanitizer; "" if nothing does."""
    values = target.first_values(bug)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        csrc = folder / "csrc"
        plant(target, bug, csrc)
        options = ("-O1", "-Wno-error")
        library = build([target.operator], folder / "values", csrc=csrc, flags=options, stub_missing=True)
        arguments = (argument.format(**values) for argument in target.probe_arguments)
        command = [sys.executable, "-W", "ignore", "-m", target.probe, str(library), *arguments]
        try:
            probe = subprocess.run(
                command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=PROBE_S
            )
        except subprocess.TimeoutExpired:
            return f"a kernel that does not end within {PROBE_S} s"
        if probe.returncode == 1 and probe.stdout:
            return probe.stdout.splitlines()[-1]
        if probe.returncode != 0:
            said = [line for line in probe.stderr.splitlines() if line.startswith("simt: ")]
            if not said:
                raise RuntimeError(f"the probe failed by itself: {probe.stderr[-2000:]}")
            return f"emulator: {said[0].removeprefix('simt: ')}"
        program = build_driver(target.driver, target.operator, "thread", folder / "thread", csrc)
        arguments = (argument.format(**values) for argument in target.driver_arguments)
        result = run(program, 0, target.driver_cases, *arguments)
        if "data race" in result.stderr:
            where = re.search(r"SUMMARY: ThreadSanitizer: data race \S*/(\S+) in", result.stderr)
            return f"ThreadSanitizer: data race{f' at {where[1]}' if where else ''}"
        if result.returncode != 0:
            return f"driver: {(result.stderr.splitlines() or [f'status {result.returncode}'])[-1]}"
        return ""


def rows_of(page: str) -> dict[tuple[str, str], str]:
    """Return who found what, by kernel and bug, of the table in the documentation."""
    table = page.split(BEGIN)[1].split(END)[0]
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+) \|$", table, re.MULTILINE)
    return {(kernel, bug): finder for kernel, bug, finder in rows}


def table(found: dict[tuple[str, str], str]) -> str:
    """Return the table for the documentation: bugs that there are, if they have been planted."""
    lines = ["| kernel | planted bug | found by |", "|---|---|---|"]
    for target in TARGETS.values():
        for bug in target.bugs:
            if (finder := found.get((target.name, bug.name))) is not None:
                # Numbers of errors, addresses and threads differ between machines.
                finder = re.sub(
                    r": error [\d.e+-]+, allowed .*| \[block .*| at \S+:\d+$| at \S+0x[\da-f]+\)$", "", finder
                )
                lines.append(f"| `{target.name}` | {bug.name} | {finder or '**nothing**'} |")
    return "\n".join(lines)


def main() -> int:
    """Plant bugs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="kernels or bugs; default: all")
    parser.add_argument("--write", action="store_true", help="renew their rows of the table in docs/cuda.md")
    arguments = parser.parse_args()
    found: dict[tuple[str, str], str] = {}
    for target in TARGETS.values():
        for bug in target.bugs:
            if arguments.names and not {target.name, bug.name} & set(arguments.names):
                continue
            finder = found[target.name, bug.name] = find(target, bug)
            print(f"{target.name}: {bug.name}: {finder or 'NOT FOUND'}", flush=True)
    if arguments.write:
        page = PAGE.read_text()
        before, rest = page.split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{table(rows_of(page) | found)}\n{END}{after}")
    return int(not all(found.values()))


if __name__ == "__main__":
    sys.exit(main())
