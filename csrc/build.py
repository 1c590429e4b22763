"""Compiles csrc/ into one library that Paddle loads: ``python csrc/build.py --output-dir FOLDER``.

Writes a ninja file and runs ninja, so a second build does nothing, a changed header rebuilds what includes
it, and a changed compile command or Paddle version rebuilds everything. Compilers' messages go to the
terminal as they are; a failure is one :class:`BuildError`. Imports nothing but the standard library (and
ninja): setup.py loads this file by its path.

``--standalone`` builds a library of the kernels alone, without Paddle: see :func:`build_standalone`.

Environment: ``CXX``; ``MAX_JOBS`` (parallel compilations); ``PADDLE_INFRA_CUDA`` (1 compiles the CUDA sources
also for a CPU Paddle, 0 leaves them out); ``PADDLE_INFRA_CUDA_ARCH_LIST`` (default ``80;89;90a;100``);
``CUDA_HOME`` or ``NVCC``; with ``--standalone`` also ``CXXFLAGS`` and ``LDFLAGS``.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CSRC = Path(__file__).resolve().parent
PROJECT = CSRC.parent
LIBRARY = "libpaddle_infra.so"
SIDECAR = "libpaddle_infra.json"
STANDALONE = "libpaddle_infra_kernels.so"
DEFAULT_CUDA_ARCHS = "80;89;90a;100"


class BuildError(RuntimeError):
    """The library could not be built; the message says which step failed and what to do."""


@dataclass(frozen=True)
class PaddleInstallation:
    """What the build needs to know of the installed Paddle, found without importing it."""

    root: Path
    version: str
    has_cuda: bool


@dataclass(frozen=True)
class Toolchain:
    """The compilers and their full command-line options."""

    cxx: str
    cxx_version: str
    target: str
    cxx_flags: tuple[str, ...]
    nvcc: str | None
    nvcc_flags: tuple[str, ...]
    includes: tuple[str, ...]
    link_flags: tuple[str, ...]


def find_paddle() -> PaddleInstallation:
    """Locate the Paddle that the running Python would import.

    Raises:
        BuildError: there is none, or it comes without headers.
    """
    spec = importlib.util.find_spec("paddle")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError(
            f"Paddle is not installed for {sys.executable}: pip install 'paddlepaddle>=3.3,<3.4' "
            "(with --no-build-isolation the package must be in the building environment)"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    if not (root / "include/paddle/phi/api/all.h").is_file():
        raise BuildError(
            f"{root} has no C++ headers (include/paddle/phi/api/all.h): expected a paddlepaddle wheel"
        )
    version = runpy.run_path(str(root / "version/__init__.py"))
    return PaddleInstallation(root, version["full_version"], version["cuda_version"] != "False")


def project_version() -> str:
    """Return the package's version."""
    return str(runpy.run_path(str(PROJECT / "paddle_infra/_version.py"))["__version__"])


def abi_number() -> int:
    """Return the number in csrc/common/abi.h."""
    match = re.search(r"#define PADDLE_INFRA_ABI (\d+)", (CSRC / "common/abi.h").read_text())
    if match is None:
        raise BuildError("csrc/common/abi.h does not define PADDLE_INFRA_ABI")
    return int(match[1])


def wants_cuda(paddle: PaddleInstallation | None) -> bool:
    """Decide by PADDLE_INFRA_CUDA, else by whether Paddle (if any) is a CUDA build.

    Raises:
        BuildError: the variable has another value than 0 and 1.
    """
    setting = os.environ.get("PADDLE_INFRA_CUDA", "")
    if setting not in ("", "0", "1"):
        raise BuildError(f"PADDLE_INFRA_CUDA: expected 0 or 1, got {setting!r}")
    return paddle is not None and paddle.has_cuda if setting == "" else setting == "1"


def find_nvcc() -> str:
    """Locate nvcc: NVCC, CUDA_HOME/bin, PATH, /usr/local/cuda/bin, the package nvidia-cuda-nvcc, in this order."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [
        os.environ.get("NVCC"),
        f"{home}/bin/nvcc" if home else None,
        "nvcc",
        "/usr/local/cuda/bin/nvcc",
        *(f"{folder}/bin/nvcc" for folder in packaged_toolkits()),
    ]
    for place in places:
        found = shutil.which(place) if place else None
        if found:
            return found
    raise BuildError(
        "CUDA sources are to be compiled (Paddle is a CUDA build, or PADDLE_INFRA_CUDA=1), but nvcc was not "
        "found in NVCC, CUDA_HOME, PATH, /usr/local/cuda or the Python packages: install the toolkit (`make cuda` "
        "does), or set PADDLE_INFRA_CUDA=0"
    )


def packaged_toolkits() -> list[Path]:
    """Return the folders where NVIDIA's packages put a CUDA toolkit, for the running Python."""
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec is not None else None
    return [folder for place in places or () for folder in sorted(Path(place).glob("cu[1-9]*"), reverse=True)]


def cuda_arch_flags(archs: str) -> list[str]:
    """Turn ``80;89;90a`` into nvcc options: machine code for each, PTX of the last plain one.

    Raises:
        BuildError: a name is not one that nvcc knows.
    """
    names = [name.strip() for name in re.split(r"[;, ]+", archs) if name.strip()]
    for name in names:
        if not re.fullmatch(r"\d{2,3}[af]?", name):
            raise BuildError(f"PADDLE_INFRA_CUDA_ARCH_LIST: expected names such as 80;89;90a, got {name!r}")
    if not names:
        raise BuildError("PADDLE_INFRA_CUDA_ARCH_LIST is empty; expected names such as 80;89;90a")
    flags = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in names]
    plain = [name for name in names if name.isdigit()]
    if plain:
        flags.append(f"-gencode=arch=compute_{plain[-1]},code=compute_{plain[-1]}")
    return flags


def find_toolkit(nvcc: str) -> Path:
    """Return the folder of the CUDA toolkit that ``nvcc`` (maybe a wrapper script) belongs to."""
    command = [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    match = re.search(r"^#\$ _HERE_=(.+)$", output, re.MULTILINE)
    if match is None:
        raise BuildError(f"{nvcc} --dryrun does not say where its toolkit is; it printed: {output.strip()!r}")
    return Path(match[1]).parent


def find_toolchain(paddle: PaddleInstallation | None, cuda: bool) -> Toolchain:
    """Choose compilers and options for a library that Paddle loads, or, without Paddle, for a standalone one.

    Raises:
        BuildError: a compiler is missing.
    """
    cxx = shutil.which(os.environ.get("CXX", "g++"))
    if cxx is None:
        raise BuildError(
            f"no C++ compiler: {os.environ.get('CXX', 'g++')!r} not found; install g++ or set CXX"
        )
    version = _ask(cxx, "--version").splitlines()[0]
    target = _ask(cxx, "-dumpmachine").strip()
    # One baseline for whole files: kernels choose wider instruction sets themselves, at run time.
    machine = ["-march=x86-64-v2"] if target.startswith("x86_64") else []
    cxx_flags = [
        "-O3",
        "-ffp-contract=fast",
        "-fPIC",
        "-fvisibility=hidden",
        "-fopenmp",
        "-Wall",
        "-Wextra",
        *machine,
    ]
    includes = ["-I", str(CSRC)]
    link_flags = ["-shared", "-Wl,-z,now", "-Wl,--no-undefined"]
    if paddle is None:
        defines = []
        cxx_flags += shlex.split(os.environ.get("CXXFLAGS", ""))
        link_flags += ["-fopenmp", *shlex.split(os.environ.get("LDFLAGS", ""))]
    else:
        defines = [
            "-DPADDLE_WITH_CUSTOM_KERNEL",
            "-DPADDLE_NO_PYTHON",
            f'-DPADDLE_INFRA_PADDLE="{paddle.version}"',
        ]
        for folder in (paddle.root / "include", paddle.root / "include/third_party"):
            includes += ["-isystem", str(folder)]
        # libpaddle and libiomp5 are in the process before this library is loaded; no run path, so that the
        # library works wherever Paddle is. Binding at load time turns a missing symbol into an error message
        # instead of a crash later. Linking with -fopenmp would add a second thread pool (libgomp) beside
        # Paddle's.
        link_flags += [
            f"-L{paddle.root}/base", f"-L{paddle.root}/libs", "-l:libpaddle.so", "-l:libphi.so",
            "-l:libphi_core.so", "-l:libcommon.so", "-l:libiomp5.so", f"-Wl,-rpath-link,{paddle.root}/libs",
        ]  # fmt: skip
    link_flags.append("-ldl")
    if cuda:
        defines.append("-DPADDLE_WITH_CUDA")
    nvcc, nvcc_flags = None, []
    if cuda:
        nvcc = find_nvcc()
        toolkit = find_toolkit(nvcc)
        archs = cuda_arch_flags(os.environ.get("PADDLE_INFRA_CUDA_ARCH_LIST") or DEFAULT_CUDA_ARCHS)
        nvcc_flags = ["-std=c++17", *defines, "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall", *archs]
        includes += ["-isystem", f"{toolkit}/include", "-isystem", f"{toolkit}/include/cccl"]
        libraries = next((f"{toolkit}/{name}" for name in ("lib64", "lib") if (toolkit / name).is_dir()), "")
        link_flags += [f"-L{libraries}", "-lcudart_static", "-lrt", "-lpthread"]
    return Toolchain(
        cxx,
        version,
        target,
        ("-std=c++17", *defines, *cxx_flags),
        nvcc,
        tuple(nvcc_flags),
        tuple(includes),
        tuple(link_flags),
    )


def _ask(cxx: str, option: str) -> str:
    return subprocess.run([cxx, option], capture_output=True, text=True, check=True).stdout


def find_sources(cuda: bool, with_operators: bool = True) -> list[Path]:
    """Return every .cc file of csrc, without those that know Paddle if so asked; every .cu file if ``cuda``."""
    sources = [file for file in CSRC.rglob("*.cc") if with_operators or not file.name.endswith("_op.cc")]
    return sorted(sources) + (sorted(CSRC.rglob("*.cu")) if cuda else [])


def macros_of(source: str) -> list[dict[str, str | int]]:
    """Return the macros of every instance of a source that csrc/instances.json lists; of others one, empty."""
    path = CSRC / "instances.json"
    lists = json.loads(path.read_text(encoding="utf-8")).get(source, {}) if path.is_file() else {}
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def _quote(path: str | Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _command(flags: Sequence[str]) -> str:
    return " ".join("'" + flag.replace("'", "'\\''") + "'" for flag in flags).replace("$", "$$")


def _compile_rule(name: str, compiler: str, flags: Sequence[str]) -> str:
    command = f"{_command([compiler])} -MD -MF $out.d {_command(flags)} $macros -c $in -o $out"
    return (
        f"rule {name}\n  command = {command}\n  depfile = $out.d\n  deps = gcc\n  description = compile $in"
    )


def ninja_text(toolchain: Toolchain, sources: Sequence[Path], library: str = LIBRARY) -> str:
    """Return the ninja file. Commands are part of it, so ninja itself notices when they change."""
    link = f"{_command([toolchain.cxx])} $in {_command(toolchain.link_flags)} -o $out"
    lines = [
        "ninja_required_version = 1.5",
        _compile_rule("cxx", toolchain.cxx, [*toolchain.cxx_flags, *toolchain.includes]),
        f"rule link\n  command = {link}\n  description = link $out",
    ]
    if toolchain.nvcc is not None:
        lines.append(_compile_rule("nvcc", toolchain.nvcc, [*toolchain.nvcc_flags, *toolchain.includes]))
    objects = []
    for source in sources:
        name = source.relative_to(CSRC).as_posix()
        rule = "nvcc" if source.suffix == ".cu" else "cxx"
        for macros in macros_of(name):
            suffix = "".join(f"-{value}" for value in macros.values())
            objects.append(_quote(f"{name}{suffix}.o"))
            lines.append(f"build {objects[-1]}: {rule} {_quote(source)}")
            defines = " ".join(f"-D{key}={value}" for key, value in macros.items())
            lines += [f"  macros = {defines}"] if defines else []
    lines.append(f"build {library}: link {' '.join(objects)}\ndefault {library}\n")
    return "\n".join(lines)


def find_ninja() -> str:
    """Locate ninja: beside the running Python, from the ``ninja`` package, or on PATH."""
    beside = Path(sys.executable).parent / "ninja"
    spec = importlib.util.find_spec("ninja")
    if spec is not None:
        import ninja

        packaged = Path(ninja.BIN_DIR) / "ninja"
        beside = packaged if packaged.is_file() else beside
    found = shutil.which(str(beside)) or shutil.which("ninja")
    if found is None:
        raise BuildError("ninja was not found: pip install ninja")
    return found


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace(path: Path, content: bytes, executable: bool = False) -> bool:
    """Write a file in one step unless it already has this content; return whether it was written."""
    if path.is_file() and path.read_bytes() == content:
        return False
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".incomplete-{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o755 if executable else 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return True


def _run_ninja(build_dir: Path) -> None:
    jobs = os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0)))
    if not jobs.isdigit() or int(jobs) < 1:
        raise BuildError(f"MAX_JOBS must be a positive number, got {jobs!r}")
    command = [find_ninja(), "-C", str(build_dir), "-j", jobs]
    sys.stdout.flush()
    result = subprocess.run(command)
    if result.returncode != 0:
        raise BuildError(
            f"compiling the operators failed (ninja exit status {result.returncode}); the compiler's own "
            f"messages are above. Command: {' '.join(command)}"
        )


def _sidecar(toolchain: Toolchain, paddle: PaddleInstallation, cuda: bool, library: bytes) -> dict[str, Any]:
    return {
        "package_version": project_version(),
        "abi": abi_number(),
        "paddle_version": paddle.version,
        "cuda": cuda,
        "compiler": toolchain.cxx_version,
        "flags": list(toolchain.cxx_flags),
        "cuda_compiler": toolchain.nvcc,
        "cuda_flags": list(toolchain.nvcc_flags),
        "machine": platform.machine(),
        "library": LIBRARY,
        "sha256": hashlib.sha256(library).hexdigest(),
    }


def _compile(build_dir: Path, toolchain: Toolchain, sources: Sequence[Path], library: str) -> bytes:
    with _locked(build_dir):
        _replace(build_dir / "build.ninja", ninja_text(toolchain, sources, library).encode())
        _run_ninja(build_dir)
        return (build_dir / library).read_bytes()


def build(output_dir: Path, build_root: Path = PROJECT / "build") -> Path:
    """Compile what changed and put the library and its description (JSON) into ``output_dir``.

    Returns:
        The path of the library.

    Raises:
        BuildError: something is missing, or a compiler failed (its messages are printed as they are).
    """
    paddle = find_paddle()
    cuda = wants_cuda(paddle)
    sources = find_sources(cuda)
    toolchain = find_toolchain(paddle, cuda)
    build_dir = build_root / f"csrc-{'cuda' if cuda else 'cpu'}-{platform.machine()}"
    library = _compile(build_dir, toolchain, sources, LIBRARY)
    output_dir.mkdir(parents=True, exist_ok=True)
    description = json.dumps(_sidecar(toolchain, paddle, cuda, library), indent=2) + "\n"
    # The description goes first: between the two steps its sha256 refuses the old library instead of trusting
    # it.
    _replace(output_dir / SIDECAR, description.encode())
    _replace(output_dir / LIBRARY, library, executable=True)
    return output_dir / LIBRARY


def build_standalone(output_dir: Path, build_root: Path = PROJECT / "build") -> Path:
    """Compile the kernels (what is not ``*_op.cc``) into a library without Paddle: only C entry points.

    For other programs, for ``ctypes``, for sanitizers (``CXXFLAGS``, ``LDFLAGS``), and for other processors
    (``CXX`` may be a cross compiler). The CUDA kernels are in it with ``PADDLE_INFRA_CUDA=1``. Its threads are
    those of the compiler's own OpenMP runtime.

    Returns:
        The path of the library.

    Raises:
        BuildError: something is missing, or a compiler failed (its messages are printed as they are).
    """
    cuda = wants_cuda(None)
    toolchain = find_toolchain(None, cuda)
    build_dir = build_root / f"csrc-standalone-{'cuda' if cuda else 'cpu'}-{toolchain.target}"
    library = _compile(build_dir, toolchain, find_sources(cuda, with_operators=False), STANDALONE)
    output_dir.mkdir(parents=True, exist_ok=True)
    _replace(output_dir / STANDALONE, library, executable=True)
    return output_dir / STANDALONE


def main() -> int:
    """Build from the command line."""
    parser = argparse.ArgumentParser(description="Compile the operators of paddle_infra.")
    parser.add_argument(
        "--output-dir", type=Path, help="default: paddle_infra/_lib; standalone: build/standalone"
    )
    parser.add_argument("--build-root", type=Path, default=PROJECT / "build")
    parser.add_argument("--find-nvcc", action="store_true", help="say which nvcc would be used, and stop")
    parser.add_argument("--standalone", action="store_true", help="only the kernels, without Paddle")
    arguments = parser.parse_args()
    make = build_standalone if arguments.standalone else build
    folder = arguments.output_dir or PROJECT / (
        "build/standalone" if arguments.standalone else "paddle_infra/_lib"
    )
    try:
        if arguments.find_nvcc:
            print(find_nvcc())
            return 0
        print(make(folder.resolve(), arguments.build_root.resolve()))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
