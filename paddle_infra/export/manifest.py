"""``manifest.json``: what an export holds and promises, and what was measured on it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from paddle_infra._core.atomic import sha256_of
from paddle_infra._core.errors import ExportError, VerificationError
from paddle_infra.export.spec import TensorSpec

Target = Literal["paddle", "onnx"]

MANIFEST_NAME = "manifest.json"
EXAMPLES_NAME = "example_inputs.npz"
# Key of ``compression`` under which Paddle Inference shall run its own operators in bfloat16.
BFLOAT16_ENGINE = "bfloat16_engine"
_FORMAT = "paddle_infra.export/1"


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        target: ``paddle`` (Paddle Inference) or ``onnx``.
        model: name of the model file in the folder.
        parameters: name of the parameter file, or None if the model file holds everything.
        inputs: what the model reads; a text in a shape is the name of a dynamic axis.
        outputs: what the model returns.
        labels: names of the classes on the last axis of the first output.
        opset: the ONNX operator set, None for Paddle Inference.
        converter: what made the ONNX graph, and why that; None for Paddle Inference.
        operators: of a Paddle program: ``fused`` if it has this package's compiled ones, else ``standard``.
        custom_operators: operators that need the package's compiled library; empty if any engine can run the
            model.
        compression: what was done to make the model smaller or faster, and what it cost; empty if nothing.
        library: name, package version, interface (``abi``), Paddle version, machine and SHA-256 of the library that had
            them; None if there are none.
        tokenizer: names of the tokenizer's files in the folder.
        max_sizes: the largest size of a dynamic axis that the model takes, as far as known.
        value_ranges: the smallest and the largest value of an integer input, as far as known.
        metadata: the user's own facts.
        versions: of the packages that made the export.
        created: UTC time in ISO 8601.
        verification: what :class:`paddle_infra.export.VerificationReport` measured, None before that.
        files: SHA-256 of every other file of the export.
    """

    target: Target
    model: str
    parameters: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] | None = None
    opset: int | None = None
    converter: str | None = None
    operators: str | None = None
    custom_operators: tuple[str, ...] = ()
    compression: dict[str, Any] = field(default_factory=dict)
    library: dict[str, Any] | None = None
    tokenizer: tuple[str, ...] = ()
    max_sizes: dict[str, int] = field(default_factory=dict)
    value_ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    verification: dict[str, Any] | None = None
    files: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"format": _FORMAT, **asdict(self)}


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read an export's manifest.

    Raises:
        ExportError: ``folder`` holds no export, or its manifest is damaged.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.pop("format")
        if found != _FORMAT:
            raise ExportError(f"{path}: expected format {_FORMAT!r}, got {found!r}")
        for key in ("inputs", "outputs"):
            values[key] = tuple(TensorSpec.from_dict(item) for item in values[key])
        for key in ("labels", "custom_operators", "tokenizer"):
            values[key] = None if values.get(key) is None else tuple(values[key])
        values["value_ranges"] = {name: tuple(pair) for name, pair in values.get("value_ranges", {}).items()}
        return Manifest(**values)
    except FileNotFoundError as error:
        raise ExportError(f"{folder}: expected an export with a {MANIFEST_NAME}, found none") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path}: expected a complete manifest, got a damaged one: {error!r}") from error


def check_files(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Compare every file with the hash in the manifest.

    Raises:
        VerificationError: a file is missing, changed, or not listed although the model needs it.
    """
    for name in filter(None, (manifest.model, manifest.parameters)):
        if name not in manifest.files:
            raise VerificationError(f"{folder}: the manifest lists no SHA-256 for {name}")
    for name, expected in manifest.files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise VerificationError(f"{path}: expected a file with SHA-256 {expected}, found none")
        found = sha256_of(path)
        if found != expected:
            raise VerificationError(f"{path}: the file has changed: expected SHA-256 {expected}, got {found}")
