"""What both exporters do around writing the model: check, build in a temporary folder, verify there, move."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import paddle

from paddle_infra._core.atomic import atomic_directory, sha256_of, write_json
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from paddle_infra._version import __version__
from paddle_infra.export._arrays import save_arrays
from paddle_infra.export._dygraph import Layer, check_arguments
from paddle_infra.export.card import CARD_NAME, write_card
from paddle_infra.export.cases import Case, as_cases, cases_like
from paddle_infra.export.edge_cases import Limits, edge_cases, find_limits
from paddle_infra.export.manifest import EXAMPLES_NAME, MANIFEST_NAME, Manifest, read_manifest
from paddle_infra.export.references import run_edges, run_references
from paddle_infra.export.spec import Arrays, DynamicAxes, TensorSpec, as_arrays, input_specs, output_specs
from paddle_infra.export.verify import VerificationReport, verify_outputs

_PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "numpy", "onnx", "onnxruntime", "paddle2onnx")

# As Hugging Face's libraries, SentencePiece and WordPiece call them.
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model"),
)


@dataclass(frozen=True)
class ExportReport:
    """A finished export: where it is, what it promises and what was measured."""

    path: Path
    manifest: Manifest
    verification: VerificationReport
    seconds: float

    @property
    def target(self) -> str:
        """``paddle`` or ``onnx``."""
        return self.manifest.target


@dataclass(frozen=True)
class Plan:
    """Everything known before the first file is written; making one runs all the checks that need no file."""

    model: Layer
    path: Path
    examples: Arrays
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    cases: tuple[Case, ...]
    expected: tuple[Arrays, ...]
    labels: tuple[str, ...] | None
    extra_files: tuple[Path, ...]
    metadata: dict[str, Any]
    atol: float
    limits: Limits
    refused: dict[str, str]


def make_plan(
    model: Layer,
    path: str | os.PathLike[str],
    example_inputs: Mapping[str, Any],
    *,
    dynamic_axes: DynamicAxes | None,
    output_names: Sequence[str],
    labels: Sequence[str] | None,
    extra_files: Sequence[str | os.PathLike[str]] | None,
    metadata: Mapping[str, Any] | None,
    verify_inputs: Sequence[Mapping[str, Any]] | None,
    atol: float,
    max_sizes: Mapping[str, int] | None = None,
    value_ranges: Mapping[str, tuple[int, int]] | None = None,
) -> Plan:
    """Check the arguments of an exporter and run the reference; nothing is written.

    Raises:
        InvalidInputError, InvalidDtypeError, NameMismatch, AxisMismatch: an argument cannot be used.
    """
    if not isinstance(model, paddle.nn.Layer):
        raise InvalidDtypeError(f"model: expected a paddle.nn.Layer, got {type(model).__name__}")
    folder = Path(os.path.abspath(path))
    check_destination(folder)
    extras = _check_extra_files(extra_files or ())
    facts = _check_metadata(metadata or {})
    if isinstance(output_names, str) or not output_names or len(set(output_names)) != len(output_names):
        raise InvalidInputError(f"output_names: expected a list of distinct names, got {output_names!r}")
    examples = as_arrays(example_inputs)
    if set(examples) & set(output_names):
        raise InvalidInputError(
            f"inputs and outputs need distinct names, got {list(examples)} and {list(output_names)}"
        )
    inputs = tuple(input_specs(examples, dynamic_axes, output_names))
    check_arguments(model, list(examples))
    cases = as_cases(inputs, cases_like(examples, inputs) if verify_inputs is None else verify_inputs)
    expected = run_references(model, cases, list(output_names))
    limits = find_limits(model, inputs, max_sizes, value_ranges)
    edges = edge_cases(examples, inputs, limits) if verify_inputs is None else {}
    more, results, refused = run_edges(model, edges, inputs, output_names)
    cases, expected = cases + more, expected + results
    outputs = tuple(output_specs(output_names, expected, [case.sizes for case in cases], dynamic_axes))
    names = None if labels is None else _check_labels(labels, outputs[0])
    return Plan(
        model,
        folder,
        examples,
        inputs,
        outputs,
        tuple(cases),
        tuple(expected),
        names,
        extras,
        facts,
        atol,
        limits,
        refused,
    )


def build(plan: Plan, write_model: Callable[[Plan, Path], Manifest]) -> ExportReport:
    """Write, verify and move into place. A failure leaves no file, and an earlier export as it was.

    Args:
        plan: what to export.
        write_model: writes the model files into a folder and returns a manifest with the fields that it
            knows.

    Raises:
        ExportError: the model cannot be exported, or what was written is not the same model.
        StorageError: a file could not be written.
    """
    start = time.perf_counter()
    with atomic_directory(plan.path) as folder:
        manifest = replace(
            write_model(plan, folder),
            labels=plan.labels,
            tokenizer=tuple(path.name for path in plan.extra_files if path.name in _TOKENIZER_FILES),
            max_sizes=dict(plan.limits.max_sizes),
            value_ranges=dict(plan.limits.value_ranges),
            metadata=plan.metadata,
            versions=versions(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        for source in plan.extra_files:
            shutil.copyfile(source, folder / source.name)
        save_arrays(folder / EXAMPLES_NAME, plan.examples)
        manifest = write_manifest(folder, manifest)
        report = verify_outputs(
            folder,
            manifest,
            plan.cases,
            plan.expected,
            atol=plan.atol,
            reference=plan.model,
            refused=plan.refused,
        )
        manifest = replace(manifest, verification=report.as_dict())
        write_card(folder, manifest)
        manifest = write_manifest(folder, manifest)
    return ExportReport(plan.path, manifest, report, time.perf_counter() - start)


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of the files in ``folder``, with their hashes; return it."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.name != MANIFEST_NAME)
    manifest = replace(manifest, files={name: sha256_of(folder / name) for name in names})
    write_json(folder / MANIFEST_NAME, manifest.as_dict())
    return manifest


def check_destination(path: Path) -> None:
    """Only an earlier export may be replaced: the whole folder is swapped."""
    if not path.exists():
        return
    if not path.is_dir():
        raise InvalidInputError(f"{path}: expected a folder to export to, got a file")
    present = {entry.name for entry in path.iterdir()}
    if not present:
        return
    if MANIFEST_NAME not in present:
        raise InvalidInputError(
            f"{path}: expected a new or empty folder or an earlier export, got {sorted(present)[:5]}"
        )
    foreign = sorted(present - set(read_manifest(path).files) - {MANIFEST_NAME})
    if foreign:
        raise InvalidInputError(
            f"{path}: holds files that no export wrote and that would be lost: {foreign[:5]}"
        )


def _check_extra_files(files: Sequence[str | os.PathLike[str]]) -> tuple[Path, ...]:
    paths = tuple(Path(file) for file in files)
    reserved = {MANIFEST_NAME, EXAMPLES_NAME, CARD_NAME, "model.json", "model.pdiparams", "model.onnx"}
    for path in paths:
        if not path.is_file():
            raise InvalidInputError(f"extra_files: expected existing files, got {path}")
    names = [path.name for path in paths]
    clashes = sorted({name for name in names if name in reserved or names.count(name) > 1})
    if clashes:
        raise InvalidInputError(
            f"extra_files: expected distinct names other than the export's own, got {clashes}"
        )
    return paths


def _check_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(metadata), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"metadata: expected plain JSON values, got {metadata!r}: {error}") from error
    return copied


def _check_labels(labels: Sequence[str], output: TensorSpec) -> tuple[str, ...]:
    names = tuple(labels)
    if (
        isinstance(labels, str)
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) != len(names)
    ):
        raise InvalidInputError(f"labels: expected a list of distinct texts, got {labels!r}")
    classes = output.shape[-1] if output.shape else None
    if classes != len(names):
        raise InvalidInputError(
            f"labels: expected one for each of the {classes} classes on the last axis of {output.name!r}, "
            f"got {len(names)}"
        )
    return names


def versions() -> dict[str, str]:
    """Return the versions of the packages that make exports."""
    found = {"paddle_infra": __version__}
    for package in _PACKAGES:
        try:
            found[package] = installed.version(package)
        except installed.PackageNotFoundError:
            continue
    return found
