"""CUDA sources compiled by g++ for the emulator of csrc/simt, and what tests ask of it."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = ("-x", "c++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC")
#: The names of csrc/simt/counters.h, in its order.
COUNTERS = (
    "mma", "matrix_loads", "shuffles", "barriers", "shared_wavefronts", "shared_ideal", "global_read_bytes",
    "global_read_sectors", "global_read_ideal", "global_write_bytes", "global_write_sectors", "global_write_ideal",
    "atomics", "launches",
)  # fmt: skip


def sources_of(operator: str, csrc: Path = CSRC) -> list[tuple[str, tuple[str, ...]]]:
    """Return the .cu files of an operator, each with the macros of every instance of it."""
    instances = json.loads((csrc / "instances.json").read_text())
    found: list[tuple[str, tuple[str, ...]]] = []
    for path in sorted((csrc / operator).glob("*.cu")):
        name = path.relative_to(csrc).as_posix()
        macros = instances.get(name, {})
        for values in product(*macros.values()):
            found.append((name, tuple(f"-D{key}={value}" for key, value in zip(macros, values, strict=True))))
    return found


def build(
    operators: Sequence[str],
    folder: Path,
    *,
    csrc: Path = CSRC,
    flags: Sequence[str] = (),
    link: Sequence[str] = ("-shared",),
    more: Sequence[Path] = (),
    stub_missing: bool = False,
) -> Path:
    """Compile the CUDA sources of operators into one library of emulated kernels.

    Args:
        operators: folders of ``csrc``.
        folder: where objects and the library go.
        csrc: another copy of the sources.
        flags: more options of the compiler.
        link: options of the link step; without ``-shared`` it makes a program.
        more: objects that are linked too.
        stub_missing: let calls of what no source defines end the process, instead of failing to link.

    Returns:
        The library, or the program.
    """
    jobs = [job for operator in operators for job in sources_of(operator, csrc)]
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(number: int) -> Path:
        name, macros = jobs[number]
        target = folder / f"{number}.o"
        subprocess.run(
            ["g++", *FLAGS, *flags, *macros, f"-I{csrc}", "-c", csrc / name, "-o", target], check=True
        )
        return target

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = [*pool.map(compile_one, range(len(jobs))), *more]
    if stub_missing:
        objects.append(_stub_of_missing(objects, folder))
    result = folder / "emulated.so"
    subprocess.run(["g++", *flags, *objects, *link, "-lpthread", "-o", result], check=True)
    return result


def _stub_of_missing(objects: Sequence[Path], folder: Path) -> Path:
    """Compile functions that end the process, in the place of those of ours that no object defines."""
    listing = subprocess.run(["nm", *objects], capture_output=True, text=True, check=True).stdout
    kinds: dict[str, set[str]] = {"U": set(), "defined": set()}
    for line in listing.splitlines():
        words = line.split()
        if len(words) >= 2 and "paddle_infra" in words[-1]:
            kinds["U" if words[-2] == "U" else "defined"].add(words[-1])
    missing = sorted(kinds["U"] - kinds["defined"])
    source, target = folder / "missing.c", folder / "missing.o"
    source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in missing))
    subprocess.run(["gcc", "-fPIC", "-c", source, "-o", target], check=True)
    return target


class LaunchRecord(ctypes.Structure):
    """LaunchRecord of csrc/simt/launch_log.h."""

    _fields_ = (("kernel", ctypes.c_void_p), ("threads", ctypes.c_uint64), ("shared_bytes", ctypes.c_uint64))


class Emulator:
    """A loaded library of emulated kernels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.library.paddle_infra_simt_configure.argtypes = [ctypes.c_uint, ctypes.c_int]
        self.library.paddle_infra_simt_announce.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def configure(self, seed: int = 0, threads: int = 2) -> None:
        """Set the order of threads and blocks (0: as they are numbered), and how many blocks run at a time."""
        self.library.paddle_infra_simt_configure(seed, threads)

    def announce(self, *arrays: np.ndarray | None) -> None:
        """Allow kernels to use these arrays, and nothing else, until ``forget``."""
        for array in arrays:
            if array is not None and array.nbytes:
                self.library.paddle_infra_simt_announce(array.ctypes.data, array.nbytes)

    def forget(self) -> None:
        """Allow kernels to use all memory."""
        self.library.paddle_infra_simt_forget()

    def launch(
        self, function: Callable[..., Any], p: ctypes.Structure, arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Call an entry point on parameters whose fields point to these arrays; it may use nothing else.

        tests/gpu has the same method, which takes the arrays to a GPU and back.
        """
        self.announce(*arrays.values())
        error = function(ctypes.byref(p), None)
        self.forget()
        assert error is None, error

    def take_counters(self) -> dict[str, int]:
        """Return what was counted since the last call."""
        counts = (ctypes.c_uint64 * len(COUNTERS))()
        self.library.paddle_infra_simt_take_counters(counts)
        return dict(zip(COUNTERS, counts, strict=True))

    def take_launches(self) -> list[tuple[str, int, int]]:
        """Return symbol, threads of a block and its dynamic shared memory of every launch since the last call."""
        most = 4096
        records = (LaunchRecord * most)()
        count = self.library.paddle_infra_simt_take_launches(records, ctypes.c_size_t(most))
        assert count <= most
        listing = subprocess.run(["nm", self.path], capture_output=True, text=True, check=True).stdout
        symbols = [line.split() for line in listing.splitlines() if line[:1] != " "]
        by_name = {symbol[-1]: int(symbol[0], 16) for symbol in symbols}
        known = ctypes.cast(self.library.paddle_infra_simt_configure, ctypes.c_void_p).value or 0
        base = known - by_name["paddle_infra_simt_configure"]
        names = {base + int(address, 16): name for address, _, name in symbols}
        return [(names[r.kernel], r.threads, r.shared_bytes) for r in records[:count]]


def to_bits(array: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers of a 16-bit format as uint16, rounded to the nearest, ties to even; 16-byte aligned."""
    if dtype == "float16":
        bits = array.astype("float16").view("uint16")
    else:
        wide = np.ascontiguousarray(array, "float32").view("uint32")
        bits = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype("uint16")
    return aligned_copy(bits)


def from_bits(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The opposite of ``to_bits``, as float32."""
    if dtype == "float16":
        return bits.view("float16").astype("float32")
    return (bits.astype("uint32") << 16).view("float32")


def aligned_copy(array: np.ndarray, alignment: int = 64, offset: int = 0) -> np.ndarray:
    """Copy an array to an address ``offset`` bytes after a multiple of ``alignment``, as allocations on a GPU are."""
    memory = np.empty(array.nbytes + alignment + offset, "uint8")
    start = -memory.ctypes.data % alignment + offset
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def unwritten(shape: Sequence[int], dtype: str) -> np.ndarray:
    """An array to be written, full of NaN."""
    wide = {"uint16": "uint16", "float32": "uint32"}[dtype]
    return aligned_copy(np.full(tuple(shape), np.iinfo(wide).max, wide)).view(dtype)
