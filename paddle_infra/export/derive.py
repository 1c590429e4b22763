"""An export made from another: the same inputs, outputs and files, another model file, verified against the first."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from paddle_infra._core.atomic import atomic_directory
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.export._arrays import load_arrays
from paddle_infra.export._build import ExportReport, check_destination, versions, write_manifest
from paddle_infra.export.card import CARD_NAME, write_card
from paddle_infra.export.cases import as_cases, cases_like
from paddle_infra.export.manifest import EXAMPLES_NAME, MANIFEST_NAME, check_files, read_manifest
from paddle_infra.export.predictor import load_predictor
from paddle_infra.export.verify import run_references, verify_outputs


def derive(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    write_model: Callable[[Path, Path], None],
    *,
    compression: Mapping[str, Any],
    atol: float,
    verify_inputs: Sequence[Mapping[str, Any]] | None = None,
) -> ExportReport:
    """Write to ``path`` an export whose model file ``write_model`` makes of that of ``source``.

    Labels, metadata, example inputs and extra files are those of ``source``. Its own outputs are what the new model is
    verified against, in a fresh process. A failure leaves no file and an earlier export as it was.

    Args:
        source: folder of an export.
        path: another folder: new, empty or an earlier export.
        write_model: called with the old and the new path of the model file.
        compression: for the manifest: what was done.
        atol: largest absolute difference allowed in an output.
        verify_inputs: as for the exporters.

    Raises:
        InvalidInputError: ``path`` is ``source`` or holds something else.
        ExportError, VerificationError: ``source`` is no complete export, or the new model differs too much.
        StorageError: a file could not be written.
    """
    start = time.perf_counter()
    old, new = Path(os.path.abspath(source)), Path(os.path.abspath(path))
    manifest = read_manifest(old)
    check_files(old, manifest)
    if old == new:
        raise InvalidInputError(f"path: expected another folder than the source, got {new} for both")
    check_destination(new)
    inputs = (
        cases_like(load_arrays(old / EXAMPLES_NAME), manifest.inputs)
        if verify_inputs is None
        else verify_inputs
    )
    cases = as_cases(manifest.inputs, inputs)
    expected = run_references(load_predictor(old), cases, [spec.name for spec in manifest.outputs])
    # Weights beside the model file belong to it: write_model decides about those of the new one.
    model_files = {name for name in manifest.files if name.startswith(manifest.model)}
    with atomic_directory(new) as folder:
        for name in set(manifest.files) - model_files - {CARD_NAME, MANIFEST_NAME}:
            shutil.copyfile(old / name, folder / name)
        write_model(old / manifest.model, folder / manifest.model)
        manifest = replace(
            manifest,
            compression={**manifest.compression, **compression},
            versions=versions(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            verification=None,
        )
        manifest = write_manifest(folder, manifest)
        report = verify_outputs(folder, manifest, cases, expected, atol=atol)
        manifest = replace(
            manifest, verification={**report.as_dict(), "reference": "the export it was made from"}
        )
        write_card(folder, manifest)
        manifest = write_manifest(folder, manifest)
    return ExportReport(new, manifest, report, time.perf_counter() - start)
