"""Fetching with processes killed, two at once, a bad connection, a full disk."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import ResourceError
from paddle_infra.data import FetchProgress, Resource, resources

Start = Callable[..., "subprocess.Popen[str]"]


def code_for(pin: Resource, progress: str = "print(event.stage, flush=True)") -> str:
    return f"""
        import time
        from paddle_infra.data import Resource, resources
        def progress(event):
            {progress}
        print(resources.fetch({pin!r}, progress=progress), flush=True)
    """


def test_a_process_killed_while_unpacking(index: Any, start_python: Start) -> None:
    pin = index.add()
    pause = (
        "event.stage == 'unpack' and event.done_bytes and (print('unpacking', flush=True), time.sleep(100))"
    )
    process = start_python(code_for(pin, pause))
    assert process.stdout is not None
    assert process.stdout.readline() == "unpacking\n"
    process.kill()
    process.wait()
    (debris,) = index.cached_names()
    assert debris.startswith(".incomplete-tiny-1.0-")
    assert not resources.is_cached(pin)
    resources.fetch(pin)
    assert index.cached_names() == ["tiny-1.0"]
    assert resources.is_cached(pin, verify=True)


def test_two_processes_at_once_download_once(server: Any, index: Any, start_python: Start) -> None:
    pin = index.add()
    server.mode = "stall"
    first = start_python(code_for(pin))
    assert first.stdout is not None
    assert first.stdout.readline() == "download\n"
    second = start_python(code_for(pin))
    assert second.stdout is not None
    assert second.stdout.readline() == "wait\n"  # the lock is seen to be taken
    server.release.set()
    outputs = [process.communicate(timeout=60)[0].split() for process in (first, second)]
    folder = str(index.home / "resources" / "tiny-1.0")
    assert list(dict.fromkeys(outputs[0])) == ["download", "verify", "unpack", "done", folder]
    assert outputs[1] == [folder]
    assert server.downloads == 1
    assert resources.is_cached(pin, verify=True)


def test_a_process_killed_while_downloading(server: Any, index: Any, start_python: Start) -> None:
    pin = index.add()
    server.mode = "stall"
    process = start_python(code_for(pin))
    assert process.stdout is not None
    assert process.stdout.readline() == "download\n"
    assert server.started.wait(60)
    process.kill()
    process.wait()
    server.mode = "whole"
    resources.fetch(pin)  # while the orphaned pip of the killed process may still be waiting
    assert index.cached_names() == ["tiny-1.0"]
    assert resources.is_cached(pin, verify=True)


def test_a_connection_that_breaks(server: Any, index: Any) -> None:
    pin = index.add()
    server.mode = "cut"
    with pytest.raises(ResourceError, match="cannot fetch 'tiny'"):
        resources.fetch(pin)
    assert index.cached_names() == []
    server.mode = "whole"
    resources.fetch(pin)
    assert resources.is_cached(pin, verify=True)


def test_an_interrupt_while_downloading_also_ends_pip(server: Any, index: Any) -> None:
    pin = index.add()
    server.mode = "stall"

    def interrupt(event: FetchProgress) -> None:
        if server.started.is_set():  # pip is in the middle of the wheel
            assert event.stage == "download"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resources.fetch(pin, progress=interrupt)
    assert index.cached_names() == []
    children = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    assert not any(b"tiny==1.0" in command for command in commands)


@pytest.mark.parametrize("size", ["room for part of the wheel", "room for the wheel, not for its members"])
def test_a_disk_that_is_full(index: Any, start_python: Start, tmp_path: Path, size: str) -> None:
    """On a small file system of its own, where that is permitted."""
    if not can_mount():
        pytest.skip("this user may not mount a tmpfs; the monkeypatched test in test_resources.py stands in")
    if size.startswith("room for part"):
        pin = index.add(files={"tiny/a.txt": os.urandom(3 << 20)}, members={"a.txt": "tiny/a.txt"})
    else:
        pin = index.add(files={"tiny/a.txt": bytes(8 << 20)}, members={"a.txt": "tiny/a.txt"})
    index.home.mkdir()
    code = f"""
        import os
        from paddle_infra.data import Resource, resources
        try:
            resources.fetch({pin!r})
        except OSError as error:
            print(type(error).__name__, error.errno, error)
        print([n for n in os.listdir({str(index.home / "resources")!r}) if not n.startswith(".lock-")])
    """
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount += [f'mount -t tmpfs -o size=2m tmpfs {shlex.quote(str(index.home))} && exec "$@"', "sh"]
    process = start_python(code, prefix=mount)
    error, left = process.communicate(timeout=60)[0].splitlines()
    assert re.match(r"StorageError 28 .*(no space left|No space left)", error)
    assert "cannot fetch 'tiny'" in error or "cannot write" in error
    assert left == "[]"


def can_mount() -> bool:
    probe = "mount -t tmpfs tmpfs /mnt"
    try:
        done = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", probe], capture_output=True
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0
