"""All emulated kernels in one library, compiled once and kept while the sources last."""

from __future__ import annotations

import functools
import hashlib
import shutil
from pathlib import Path

from filelock import FileLock

from tests.cuda import emulator
from tests.cuda.emulator import CSRC, Emulator, build

OPERATORS = ("attention", "linear_cross_entropy", "linear_topk")
FOLDER = CSRC.parent / "build/emulated"


@functools.cache
def emulated_kernels() -> Emulator:
    """Return the kernels of all operators, loaded once per process."""
    digest = hashlib.sha256(Path(emulator.__file__).read_bytes())
    for path in sorted(path for path in CSRC.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(path.relative_to(CSRC).as_posix().encode() + b"\0" + path.read_bytes())
    library = FOLDER / f"{digest.hexdigest()[:16]}.so"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / "lock"):
        if not library.is_file():
            for old in FOLDER.glob("*.so"):
                old.unlink()
            work = FOLDER / "work"
            shutil.rmtree(work, ignore_errors=True)
            build(OPERATORS, work).rename(library)  # whole, or not there
            shutil.rmtree(work)
        return Emulator(library)
