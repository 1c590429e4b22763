"""The engines that can run an export: which kind of export each one reads, and how it is opened."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from paddle_infra._core.checks import check_choice, check_positive
from paddle_infra._core.errors import ExportError, MissingExtraError, PaddleInfraError, UnsupportedError
from paddle_infra._core.runtime import cpu_info
from paddle_infra.export.engines import Engine, OnnxEngine, PaddleEngine, Precision
from paddle_infra.export.manifest import MANIFEST_NAME, Manifest, check_files, read_manifest
from paddle_infra.export.verify import check_declared
from paddle_infra.inference._openvino import OpenVinoEngine
from paddle_infra.inference._own_thread import OwnThread

Backend = Literal["paddle", "onnxruntime", "openvino"]
BACKENDS: tuple[Backend, ...] = ("paddle", "onnxruntime", "openvino")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
_TARGETS: dict[Backend, str] = {"paddle": "paddle", "onnxruntime": "onnx", "openvino": "onnx"}
_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}


@dataclass(frozen=True)
class Settings:
    """How an engine runs.

    Attributes:
        threads: of one call.
        precision: ``float32``, or ``bfloat16`` products where engine and processor have them.
        concurrency: calls that may run at the same time.

    Raises:
        InvalidInputError: a value is none of these.
        UnsupportedError: the processor has no instructions for bfloat16.
    """

    threads: int = 1
    precision: Precision = "float32"
    concurrency: int = 1

    def __post_init__(self) -> None:
        check_positive("threads", self.threads)
        check_positive("concurrency", self.concurrency)
        check_choice("precision", self.precision, PRECISIONS)
        features = cpu_info().features
        if self.precision == "bfloat16" and not {"avx512_bf16", "amx_bf16"} & set(features):
            raise UnsupportedError(
                f"precision='bfloat16': expected a processor with avx512_bf16 or amx_bf16, got {list(features)}"
            )


@dataclass(frozen=True)
class Export:
    """An export folder and what its manifest says."""

    folder: Path
    manifest: Manifest


def find_exports(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Export]:
    """Read the exports in ``path``: an export folder, a folder of such folders, or a list of either.

    All must be exports of one model, for different engines. Every file is compared with its SHA-256.

    Raises:
        ExportError: there is no export, a manifest is damaged, or inputs and outputs are not the same everywhere.
        VerificationError: a file has changed.
    """
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    exports = []
    for folder in map(Path, paths):
        if not folder.is_dir():
            raise ExportError(
                f"{folder}: expected an export folder, got {'a file' if folder.exists() else 'nothing'}"
            )
        inside = [] if (folder / MANIFEST_NAME).exists() else sorted(folder.glob(f"*/{MANIFEST_NAME}"))
        for found in [manifest.parent for manifest in inside] or [folder]:
            exports.append(Export(found, read_manifest(found)))
    if not exports:
        raise ExportError("path: expected an export folder, got an empty list")
    first = exports[0]
    for export in exports:
        check_files(export.folder, export.manifest)
        if (export.manifest.inputs, export.manifest.outputs) != (
            first.manifest.inputs,
            first.manifest.outputs,
        ):
            raise ExportError(
                f"{export.folder}: expected an export of the same model as {first.folder}, with the same inputs and "
                f"outputs, got {_signature(export.manifest)} instead of {_signature(first.manifest)}"
            )
    return exports


def _signature(manifest: Manifest) -> dict[str, Any]:
    return {spec.name: [spec.dtype, *spec.shape] for spec in (*manifest.inputs, *manifest.outputs)}


def candidates(exports: Sequence[Export]) -> list[tuple[Backend, Export]]:
    """Return every engine with each export that it can read, installed or not."""
    return [
        (backend, export)
        for backend in BACKENDS
        for export in exports
        if export.manifest.target == _TARGETS[backend]
    ]


def readable(backend: Backend, exports: Sequence[Export]) -> Export:
    """Return the only one of ``exports`` that ``backend`` reads.

    Raises:
        ExportError: there is none, or more than one.
    """
    found = [export for name, export in candidates(exports) if name == backend]
    if len(found) != 1:
        raise ExportError(
            f"backend={backend!r}: expected one export for target {_TARGETS[backend]!r}, got "
            f"{[f'{export.folder} ({export.manifest.target})' for export in found or exports]}"
        )
    return found[0]


def require_installed(backend: Backend) -> None:
    """Raise unless the engine's package is installed; imports nothing.

    Raises:
        MissingExtraError: it is not.
    """
    if backend in _EXTRAS and importlib.util.find_spec(backend) is None:
        raise MissingExtraError(backend, _EXTRAS[backend], f"backend={backend!r}")


def open_engines(backend: Backend, export: Export, settings: Settings) -> list[Engine]:
    """Open an export once for each call that may run at the same time.

    Raises:
        MissingExtraError: the engine is not installed.
        UnsupportedError: the engine lacks the precision.
        ExportError: the engine cannot load the model; the message holds the engine's own.
        NameMismatch, DtypeMismatch, AxisMismatch: it reads other inputs or outputs than the manifest promises.
    """
    require_installed(backend)
    try:
        engines = _OPENERS[backend](export, settings)
    except PaddleInfraError:
        raise
    except Exception as error:
        raise ExportError(
            f"{export.folder}: {backend} cannot load {export.manifest.model}: {error}"
        ) from error
    check_declared("input", export.manifest.inputs, [asdict(info) for info in engines[0].inputs])
    check_declared("output", export.manifest.outputs, [asdict(info) for info in engines[0].outputs])
    return engines


def _open_paddle(export: Export, settings: Settings) -> list[Engine]:
    first = PaddleEngine(export.folder, export.manifest, settings.threads, settings.precision)
    if first.keeps_lock:
        warnings.warn(
            f"other threads of Python stand still while Paddle computes: {first.keeps_lock}", stacklevel=4
        )
    engines = [first, *(first.clone() for _ in range(settings.concurrency - 1))]
    return [OwnThread(engine) for engine in engines]


def _open_onnxruntime(export: Export, settings: Settings) -> list[Engine]:
    if settings.precision != "float32":
        raise UnsupportedError(
            f"onnxruntime: expected precision 'float32', the only one it has on such a processor, "
            f"got {settings.precision!r}"
        )
    session = OnnxEngine(export.folder, export.manifest, settings.threads)
    return [session] * settings.concurrency  # a session may be run by several threads at once


def _open_openvino(export: Export, settings: Settings) -> list[Engine]:
    first = OpenVinoEngine(export.folder, export.manifest, **asdict(settings))
    return [first, *(first.clone() for _ in range(settings.concurrency - 1))]


_OPENERS: dict[Backend, Callable[[Export, Settings], list[Engine]]] = {
    "paddle": _open_paddle,
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
}
