"""Run an export from Python: one callable over both engines."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.export.engines import open_engine
from paddle_infra.export.manifest import Manifest, check_files, read_manifest
from paddle_infra.export.spec import Arrays, as_arrays, axis_sizes


class ExportedModel:
    """A loaded export: call it with arrays by input name, get arrays by output name.

    Safe to call from several threads: calls take turns, because Paddle's predictor gives silently wrong
    results when two threads use it at once. For parallel work use one process, or one ``ExportedModel``, per
    worker.

    Args:
        path: folder of an export.
        threads: for the engine's own parallel loops.
        check_hashes: compare every file with the manifest's SHA-256 first.

    Raises:
        ExportError: no export there, or the engine cannot load it.
        VerificationError: a file has changed.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1, check_hashes: bool = True) -> None:
        if threads < 1:
            raise InvalidInputError(f"threads: expected at least 1, got {threads}")
        self.manifest: Manifest = read_manifest(path)
        if check_hashes:
            check_files(path, self.manifest)
        self._engine = open_engine(Path(path), self.manifest, threads)
        self._lock = threading.Lock()

    @property
    def engine(self) -> str:
        """Name and version of the engine."""
        return self._engine.name

    def __call__(self, inputs: Mapping[str, Any]) -> Arrays:
        """Run the model.

        Raises:
            InvalidInputError: an input is empty.
            NameMismatch, DtypeMismatch, AxisMismatch: the inputs are not those in the manifest.
        """
        arrays = as_arrays(inputs)
        axis_sizes(self.manifest.inputs, arrays)
        with self._lock:
            return self._engine.run(arrays)


def load_predictor(
    path: str | os.PathLike[str], *, threads: int = 1, check_hashes: bool = True
) -> ExportedModel:
    """Load an export for Paddle Inference or ONNX Runtime: see :class:`ExportedModel`."""
    return ExportedModel(path, threads=threads, check_hashes=check_hashes)
