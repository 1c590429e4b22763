"""What nvcc makes of every CUDA kernel, read from machine code: no GPU is needed.

Registers, shared memory and local memory (spills) come from the compiled kernels' own tables, instructions from their
disassembly, blocks per multiprocessor from both. ``static_budget.json`` says what they are to be; where theory knows a
number of instructions (``static_theory.py``), that has to come out.

``python -m tests.cuda.static_budget`` compares, ``--write`` renews the JSON, ``--archs 80 90a`` does some of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cuda.emulator import CSRC, sources_of
from tests.cuda.static_names import short_names
from tests.cuda.static_theory import dynamic_shared, theory

BUDGET = Path(__file__).with_suffix(".json")
KIB = 1024


@dataclass(frozen=True)
class Multiprocessor:
    """What the blocks of one multiprocessor share (CUDA C++ Programming Guide, Compute Capabilities)."""

    shared_bytes: int
    warps: int
    blocks: int
    registers: int = 65536


ARCHS = {
    "80": Multiprocessor(164 * KIB, 64, 32),
    "89": Multiprocessor(100 * KIB, 48, 24),
    "90a": Multiprocessor(228 * KIB, 64, 32),
    "100": Multiprocessor(228 * KIB, 64, 32),
}
#: Kernels without __launch_bounds__ are started by Launcher (csrc/common/cuda_launch.h), in blocks of this size.
LAUNCHER_THREADS = 256
#: Instructions that are counted, by how they begin.
INSTRUCTIONS = {"mma": "HMMA", "ldmatrix": "LDSM", "async_copies": "LDGSTS", "exp2": "MUFU.EX2"}
#: Figures of kernels, by their names.
Kernels = dict[str, dict[str, int]]


class MissingToolError(RuntimeError):
    """A tool of the CUDA toolkit is not here; the message says which."""


def find_tool(name: str) -> str:
    """Locate a program of the toolkit: on PATH, in /usr/local/cuda, or from a package of the running Python."""
    packaged = Path(sysconfig.get_path("purelib")) / "nvidia/cu13/bin"
    for place in (name, f"/usr/local/cuda/bin/{name}", str(packaged / name)):
        found = shutil.which(place)
        if found:
            return found
    raise MissingToolError(f"no {name}: `make check-cuda` installs it")


def all_instances(csrc: Path = CSRC) -> list[tuple[str, tuple[str, ...]]]:
    """Return every .cu file with the macros of each of its instances."""
    folders = sorted({path.parent.name for path in csrc.glob("*/*.cu")})
    return [job for folder in folders for job in sources_of(folder, csrc)]


def compile_cubin(source: str, macros: Sequence[str], arch: str, target: Path) -> None:
    """Compile one instance as csrc/build.py does, to machine code only."""
    nvcc = find_tool("nvcc")
    command = [nvcc, "-std=c++17", "-O3", f"-I{CSRC}", f"-arch=sm_{arch}", "-cubin", *macros]
    subprocess.run([*command, CSRC / source, "-o", target], check=True)


def read_cubin(cubin: Path, arch: str) -> Kernels:
    """Return the figures of every kernel in a file."""

    def ask(option: str) -> str:
        command = [find_tool("cuobjdump"), option, cubin]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    kernels: Kernels = {}
    threads = max_threads(ask("-elf"))
    instructions = disassembled(ask("-sass"))
    found = re.findall(r"Function (\S+):\s*\n\s*(.*)", ask("-res-usage"))
    names = short_names(symbol for symbol, _ in found)
    for symbol, line in found:
        usage = {key: int(value) for key, value in re.findall(r"(\w+)(?:\[\d\])?:(\d+)", line)}
        counts = figures(
            names[symbol], arch, usage, instructions[symbol], threads.get(symbol, LAUNCHER_THREADS)
        )
        add_kernels(kernels, {names[symbol]: counts})
    return kernels


def max_threads(elf: str) -> dict[str, int]:
    """Return the size of block that each kernel was compiled for, from __launch_bounds__."""
    found = {}
    for section in re.split(r"^\.nv\.info\.", elf, flags=re.MULTILINE)[1:]:
        sizes = re.search(r"EIATTR_MAX_THREADS\s+Format:\s+\w+\s+Value:\s+(0x\w+) (0x\w+) (0x\w+)", section)
        if sizes:
            found[section.split()[0]] = math.prod(int(size, 16) for size in sizes.groups())
    return found


def disassembled(sass: str) -> dict[str, Counter[str]]:
    """Return how often each function has each instruction."""
    found: dict[str, Counter[str]] = {}
    for line in sass.splitlines():
        start = re.search(r"Function : (\S+)", line)
        if start:
            counts = found[start[1]] = Counter()
            continue
        instruction = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", line)
        if instruction:
            counts[instruction[1]] += 1
    return found


def figures(
    key: str, arch: str, usage: dict[str, int], instructions: Counter[str], threads: int
) -> dict[str, int]:
    """Put together what is compared of one kernel."""

    def count(*beginnings: str) -> int:
        return sum(n for name, n in instructions.items() if name.startswith(beginnings))

    shared = dynamic_shared(key)
    if count("LDS", "STS", "LDGSTS", "ATOMS") > 0 and usage["SHARED"] + shared == 0:
        raise ValueError(f"{key} uses shared memory, and static_theory.py does not know how much it gets")
    shared += usage["SHARED"]
    return {
        "registers": usage["REG"],
        "local_bytes": usage["STACK"] + usage["LOCAL"],
        "local_accesses": count("LDL", "STL"),
        "threads": threads,
        "shared_bytes": shared,
        "blocks_per_multiprocessor": resident_blocks(ARCHS[arch], usage["REG"], shared, threads),
        **{what: count(beginning) for what, beginning in INSTRUCTIONS.items()},
    }


def resident_blocks(sm: Multiprocessor, registers: int, shared_bytes: int, threads: int) -> int:
    """Return how many blocks of a kernel a multiprocessor runs at a time (CUDA's occupancy calculator)."""
    warps = -(-threads // 32)
    of_warp = -(-registers * 32 // 256) * 256
    # Warps are shared out among four schedulers, each with a quarter of the registers.
    by_registers = sm.registers // 4 // of_warp * 4 // warps
    by_shared = sm.shared_bytes // (-(-shared_bytes // 128) * 128 + KIB)  # a block costs one KiB itself
    return min(by_registers, by_shared, sm.warps // warps, sm.blocks)


def measure(archs: Sequence[str]) -> dict[str, Kernels]:
    """Compile everything; return figures[architecture][kernel]."""
    jobs = [(arch, *instance) for arch in archs for instance in all_instances()]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def measure_one(number: int) -> Kernels:
            arch, source, macros = jobs[number]
            cubin = Path(folder) / f"{number}.cubin"
            compile_cubin(source, macros, arch, cubin)
            return read_cubin(cubin, arch)

        found: dict[str, Kernels] = {arch: {} for arch in archs}
        for (arch, *_), kernels in zip(jobs, pool.map(measure_one, range(len(jobs))), strict=True):
            add_kernels(found[arch], kernels)
    return found


def add_kernels(known: Kernels, more: Kernels) -> None:
    """Add kernels; several sources may have the same one, but not two of one name."""
    for key, here in more.items():
        if known.setdefault(key, here) != here:
            raise ValueError(f"two kernels are called {key}: {known[key]} and {here}")


def differences(found: dict[str, Any], budget: dict[str, Any]) -> list[str]:
    """Say what is not as the budget or theory has it; kernels stay out of local memory, and can be started."""
    said = []
    for arch, kernels in found.items():
        expected = budget.get(arch, {})
        for key in sorted(kernels.keys() | expected.keys()):
            here, there = kernels.get(key), expected.get(key)
            if here is None or there is None:
                said.append(f"sm_{arch} {key}: {'is gone' if here is None else 'is not in the budget'}")
                continue
            said += [f"sm_{arch} {key}: {what} is {here[what]}, expected {there.get(what)}"
                     for what in here if here[what] != there.get(what)]  # fmt: skip
        for key, here in kernels.items():
            limits = {"local_bytes": (0,), "local_accesses": (0,)} | theory(key, arch)
            said += [f"sm_{arch} {key}: {what} is {here[what]}, by theory {' or '.join(map(str, allowed))}"
                     for what, allowed in limits.items() if here[what] not in allowed]  # fmt: skip
            if here["blocks_per_multiprocessor"] < 1:
                said.append(f"sm_{arch} {key}: a multiprocessor has no room for a block")
    return said


def main() -> int:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="renew static_budget.json")
    parser.add_argument("--archs", nargs="+", default=list(ARCHS), choices=ARCHS)
    arguments = parser.parse_args()
    found = measure(arguments.archs)
    budget = json.loads(BUDGET.read_text()) if BUDGET.is_file() else {}
    if arguments.write:
        budget |= found
        lines = [f' "{arch}": {{\n' + ",\n".join(f'  "{key}": {json.dumps(kernels[key])}' for key in sorted(kernels))
                 + "\n }" for arch, kernels in budget.items()]  # fmt: skip
        BUDGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    said = differences(found, budget)
    print("\n".join(said) or f"{sum(map(len, found.values()))} kernels are as expected")
    return bool(said)


if __name__ == "__main__":
    sys.exit(main())
