from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_infra._core.atomic import (
    atomic_directory,
    atomic_file,
    remove_incomplete,
    sha256_of,
    write_json,
    write_text,
)
from paddle_infra._core.errors import StorageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert names(target.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic_directory(target) as temporary:
            (temporary / content).write_text(content)
    assert names(target) == ["two"]
    assert names(tmp_path) == ["folder"]

    def fail() -> None:
        with atomic_directory(target) as temporary:
            (temporary / "three").write_text("three")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(target) == ["two"]
    assert names(tmp_path) == ["folder"]


def test_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.write_text("x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match=r"cannot write .*a: No space left on device") as caught:
        write()
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_text(tmp_path / "file" / "a.txt", "text")
    with pytest.raises(StorageError, match="cannot write"), atomic_directory(tmp_path / "file" / "b"):
        pass


def test_json_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"value": 1.5, "text": "ü"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"value": 1.5, "text": "ü"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", float("nan"))
    assert names(tmp_path) == ["a.json"]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom paddle_infra._core.atomic import atomic_file\n"
        "with atomic_file(Path(sys.argv[1]) / 'a') as path:\n    path.write_text('half')\n    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    with atomic_file(tmp_path / "b") as mine:
        mine.write_text("in use")
        (left,) = remove_incomplete(tmp_path)
        assert left.name.startswith(".incomplete-a-")
    assert names(tmp_path) == ["b"]
