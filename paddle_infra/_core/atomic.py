"""Files and folders that are either complete or absent.

Everything is written beside its destination under a temporary name, flushed to the disk, then renamed: a reader never
sees half a file, and an exception (full disk, Ctrl-C) leaves the old content in place and no debris.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paddle_infra._core.errors import StorageError

_TEMPORARY = ".incomplete-"


def _sibling(path: Path) -> Path:
    return path.with_name(f"{_TEMPORARY}{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a temporary; a failure to do so must not replace the error that is on its way."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes ``path``, on any exception it is removed.

    Raises:
        StorageError: the file could not be written (the cause is chained: full disk, no permission, …).
    """
    target = Path(path)
    temporary = _sibling(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(error.errno, f"cannot write {target}: {error.strerror or error}") from error
    finally:
        _remove(temporary)


@contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary folder; on success it replaces ``path`` whole, on any exception it is removed.

    Raises:
        StorageError: a file in it could not be written (the cause is chained).
    """
    target = Path(path)
    temporary, old = _sibling(target), _sibling(target)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(temporary, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
        _sync(target.parent)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(error.errno, f"cannot write {target}: {error.strerror or error}") from error
    finally:
        _remove(temporary)
        if target.exists():
            _remove(old)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically. NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def remove_incomplete(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove what a killed process left in ``folder`` (temporary names only) and return the removed paths."""
    debris = [entry for entry in Path(folder).glob(f"{_TEMPORARY}*") if not _is_alive(entry)]
    for entry in debris:
        _remove(entry)
    return debris


def _is_alive(entry: Path) -> bool:
    try:
        os.kill(int(entry.name.rsplit("-", 2)[1]), 0)
    except (ValueError, IndexError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
