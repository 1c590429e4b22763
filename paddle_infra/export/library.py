"""The compiled library that a program with fused operators needs: described when exported, checked before loading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddle_infra._core import extension
from paddle_infra._core.errors import ExtensionUnavailableError

_DESCRIBED = ("package_version", "abi", "paddle_version", "machine", "sha256")


def describe_library(operators: Sequence[str]) -> dict[str, Any] | None:
    """Return name, versions and SHA-256 of the library that has ``operators``; None if there are none."""
    if not _own(operators):
        return None
    build = extension.require().build
    return {"name": build["library"], **{key: build[key] for key in _DESCRIBED}}


def check_library(folder: Path, operators: Sequence[str], needed: dict[str, Any] | None) -> None:
    """Load the library for ``operators``, or say what is missing before an engine sees the program.

    Paddle itself would only report a fault in an operator without a name. Another build of the same binary interface
    (``abi``) is as good as the one that the export was made with.

    Raises:
        ExtensionUnavailableError: it cannot be loaded, or has another interface.
    """
    own = _own(operators)
    if not own:
        return
    text = "paddle_infra's compiled library"
    if needed is not None:
        text = f"{needed['name']} of paddle_infra {needed['package_version']} (ABI {needed['abi']})"
    what = f"{folder}: the program holds the operators {own} and needs {text}"
    status = extension.load()
    if not status.is_loaded:
        raise ExtensionUnavailableError(
            f"{what}, or an export with ops='standard', which needs none: {status.explain()}"
        )
    if needed is not None and status.build["abi"] != needed["abi"]:
        found = status.build["abi"]
        raise ExtensionUnavailableError(f"{what}, got one with ABI {found}: export the model again")


def _own(operators: Sequence[str]) -> list[str]:
    return [name for name in operators if name.startswith("paddle_infra_")]
