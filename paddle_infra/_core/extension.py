"""Finds and loads the compiled operators, or says exactly why it cannot.

Everything that can be wrong is checked before the library is opened: one that was built for another Paddle
minor version does not fail when it is loaded, it kills the process.
"""

from __future__ import annotations

import ctypes
import json
import platform
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from paddle_infra._core.atomic import sha256_of
from paddle_infra._core.errors import ExtensionUnavailableError
from paddle_infra._core.paddle_import import quiet_import_paddle

#: The library that belongs to this installation; csrc/build.py puts it there, with a JSON description beside
# it.
LIBRARY = Path(__file__).resolve().parent.parent / "_lib" / "libpaddle_infra.so"
#: Must equal PADDLE_INFRA_ABI in csrc/common/abi.h.
ABI = 4

#: Of an operator that has kernels for GPUs; names what lies there.
WITHOUT_CUDA = (
    "{} is on a GPU, but the library was compiled without CUDA: rebuild it with nvcc and PADDLE_INFRA_CUDA=1"
)

_REMEDY = (
    "Rebuild it for the installed Paddle, in the source folder: `python csrc/build.py` for an editable "
    "installation, else `pip install --force-reinstall --no-deps --no-build-isolation .`"
)


@dataclass(frozen=True)
class ExtensionStatus:
    """What is known of the compiled operators.

    Attributes:
        is_loaded: The operators are registered with Paddle in this process.
        path: Where the library is expected.
        reasons: Why it cannot be loaded, each a sentence; empty if it can.
        build: What the build wrote beside the library (versions, compiler, flags, sha256); empty if
            unreadable.
        isa: The instruction set that the CPU kernels use (see csrc/common/cpu_target.h); empty if not loaded.
    """

    is_loaded: bool
    path: Path
    reasons: tuple[str, ...]
    build: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    isa: str = ""

    @property
    def is_available(self) -> bool:
        """Whether nothing speaks against loading it."""
        return not self.reasons

    def explain(self) -> str:
        """Return the state as one text: reasons and remedy if there are any."""
        if self.is_loaded:
            return f"the compiled operators are loaded from {self.path}"
        if self.is_available:
            return f"the compiled operators at {self.path} are not loaded yet"
        return f"the compiled operators cannot be used: {'; '.join(self.reasons)}. {_REMEDY}"


class Extension:
    """One compiled library; loads at most once, from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._final: ExtensionStatus | None = None
        self._has_warned = False

    def status(self) -> ExtensionStatus:
        """Return the state without loading anything (Paddle is imported to learn its version)."""
        return self._final or self._inspect()

    def load(self) -> ExtensionStatus:
        """Register the operators with Paddle if possible; tries only once.

        Raises:
            ExtensionUnavailableError: the environment variable PADDLE_INFRA_ISA names no instruction set that is
                here. Nothing else raises: who asks for a certain one must not get plain Paddle instead.
        """
        if self._final is not None:  # the usual case, in every call of an operator: without the lock
            return self._final
        with self._lock:
            if self._final is None:
                status = self._inspect()
                self._final = self._open(status) if status.is_available else status
            return self._final

    def require(self) -> ExtensionStatus:
        """Load, or raise.

        Raises:
            ExtensionUnavailableError: with every reason and the remedy.
        """
        status = self.load()
        if not status.is_loaded:
            raise ExtensionUnavailableError(status.explain())
        return status

    def warn_once(self) -> None:
        """Warn, the first time only, that the plain implementation runs because the library is missing."""
        with self._lock:
            if self._has_warned or self._final is None or self._final.is_loaded:
                return
            self._has_warned = True
        message = f"running the slower plain Paddle implementation, because {self._final.explain()}"
        warnings.warn(message, UserWarning, stacklevel=3)

    def _inspect(self) -> ExtensionStatus:
        sidecar = self._path.with_suffix(".json")
        missing = [f"{file} does not exist" for file in (self._path, sidecar) if not file.is_file()]
        if missing:
            return ExtensionStatus(False, self._path, tuple(missing))
        try:
            build = json.loads(sidecar.read_text(encoding="utf-8"))
            reasons = _mismatches(self._path, build)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{sidecar} is damaged ({type(error).__name__}: {error})"
            return ExtensionStatus(False, self._path, (reason,))
        return ExtensionStatus(False, self._path, tuple(reasons), MappingProxyType(build))

    def _open(self, status: ExtensionStatus) -> ExtensionStatus:
        from paddle.utils.cpp_extension import load_op_meta_info_and_register_op

        try:
            library = ctypes.CDLL(str(self._path))
            wrong_setting = _text_from(library, "paddle_infra_isa_error")
            isa = _text_from(library, "paddle_infra_cpu_target")
            if not wrong_setting:
                load_op_meta_info_and_register_op(str(self._path))
        except Exception as error:  # Paddle raises several types; all mean that the library cannot be opened
            text = " ".join(str(error).split())
            return ExtensionStatus(False, self._path, (f"opening {self._path} failed: {text}",), status.build)
        if wrong_setting:
            raise ExtensionUnavailableError(wrong_setting)
        return ExtensionStatus(True, self._path, (), status.build, isa)


def _text_from(library: ctypes.CDLL, function: str) -> str:
    """Call a function of C that returns a text or null."""
    call = library[function]
    call.restype = ctypes.c_char_p
    return (call() or b"").decode()


def _mismatches(path: Path, build: Mapping[str, Any]) -> list[str]:
    """Compare what the library was built for with what is here."""
    reasons = []
    if build["abi"] != ABI:
        reasons.append(f"the library has ABI {build['abi']}, this version of paddle_infra needs ABI {ABI}")
    if build["machine"] != platform.machine():
        reasons.append(f"the library was built for {build['machine']}, this machine is {platform.machine()}")
    found = sha256_of(path)
    if build["sha256"] != found:
        reasons.append(f"{path} is damaged: expected sha256 {build['sha256']}, found {found}")
    try:
        quiet_import_paddle()
        import paddle
    except ImportError as error:
        return [*reasons, f"Paddle cannot be imported ({error})"]
    if _minor(build["paddle_version"]) != _minor(paddle.version.full_version):
        reasons.append(
            f"the library was built for Paddle {build['paddle_version']}, "
            f"the installed Paddle is {paddle.version.full_version}"
        )
    return reasons


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


_installed = Extension(LIBRARY)
status = _installed.status
load = _installed.load
require = _installed.require
warn_once = _installed.warn_once
