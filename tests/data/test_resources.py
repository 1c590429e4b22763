"""Fetching: what is cached, what is refused, what is repaired."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import HashMismatchError, InvalidInputError, ResourceError, StorageError
from paddle_infra.data import FetchProgress, Resource, resources


def no_subprocess(*args: object, **kwargs: object) -> None:
    raise AssertionError("a process was started")


def test_a_fetched_resource_has_its_members_and_nothing_else(index: Any) -> None:
    pin = index.add()
    assert not resources.is_cached(pin)
    events: list[FetchProgress] = []
    folder = resources.fetch(pin, progress=events.append)
    assert folder == index.home / "resources" / "tiny-1.0" == resources.resource_directory(pin)
    assert (folder / "a.txt").read_bytes() == b"alpha\n"
    assert (folder / "deep/b.bin").read_bytes() == bytes(range(256)) * 40
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == [".manifest.json", "a.txt", "deep/b.bin"]
    assert index.cached_names() == ["tiny-1.0"]
    assert resources.is_cached(pin, verify=True)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["download", "verify", "unpack", "done"]
    last = [event for event in events if event.stage == "unpack"][-1]
    assert last.done_bytes == last.total_bytes == 6 + 256 * 40


def test_a_cached_resource_needs_neither_network_nor_pip(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = index.add()
    first = resources.fetch(pin)
    index.wheel.unlink()
    monkeypatch.setattr(subprocess, "Popen", no_subprocess)
    assert resources.fetch(pin, progress=lambda event: pytest.fail(str(event)), verify=True) == first


def test_a_member_folder_is_taken_whole(index: Any) -> None:
    pin = index.add(members={"all/": "tiny/sub/", "": "tiny/"})
    folder = resources.fetch(pin)
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == [".manifest.json", "a.txt", "all/b.bin", "sub/b.bin", "unwanted.txt"]


def halve(folder: Path) -> None:
    content = (folder / "a.txt").read_bytes()
    (folder / "new").mkdir()
    for name, part in (("x", content[:3]), ("y", content[3:])):
        (folder / "new" / name).write_bytes(part)
    (folder / "a.txt").unlink()


def test_a_resource_is_converted_before_it_counts_as_cached(index: Any) -> None:
    pin = dataclasses.replace(index.add(), conversion=resources.Conversion("halves-1", halve))
    events: list[FetchProgress] = []
    folder = resources.fetch(pin, progress=events.append)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["download", "verify", "unpack", "convert", "done"]
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == [".manifest.json", "deep/b.bin", "new/x", "new/y"]
    assert resources.is_cached(pin, verify=True)
    (folder / "new/y").write_bytes(b"ha!")
    assert not resources.is_cached(pin, verify=True)
    resources.fetch(pin, verify=True)
    assert (folder / "new/y").read_bytes() == b"ha\n"


def test_another_conversion_is_made_again(index: Any) -> None:
    plain = index.add()
    resources.fetch(plain)
    pin = dataclasses.replace(plain, conversion=resources.Conversion("halves-1", halve))
    assert not resources.is_cached(pin)
    messages: list[str] = []
    folder = resources.fetch(pin, progress=lambda event: messages.append(event.message))
    assert any("converted by None, expected 'halves-1'" in message for message in messages)
    assert (folder / "new/x").read_bytes() == b"alp"
    assert not resources.is_cached(
        dataclasses.replace(pin, conversion=resources.Conversion("halves-2", halve))
    )


def test_a_failed_conversion_leaves_nothing(index: Any) -> None:
    def fail(folder: Path) -> None:
        raise ResourceError("not as expected")

    pin = dataclasses.replace(index.add(), conversion=resources.Conversion("fail-1", fail))
    with pytest.raises(ResourceError, match="not as expected"):
        resources.fetch(pin)
    assert index.cached_names() == []


def test_the_platform_of_a_wheel_is_asked_for(index: Any) -> None:
    pin = index.add()
    wheel = index.wheel
    wheel.rename(wheel.with_name("tiny-1.0-py3-none-win_arm64.whl"))
    with pytest.raises(ResourceError, match=r"tiny==1\.0"):
        resources.fetch(pin)
    folder = resources.fetch(dataclasses.replace(pin, platform="win_arm64"))
    assert (folder / "a.txt").read_bytes() == b"alpha\n"


def test_a_wrong_hash_is_refused_and_leaves_nothing(index: Any) -> None:
    pin = index.add()
    wrong = dataclasses.replace(pin, sha256="0" * 64)
    with pytest.raises(
        HashMismatchError, match=f"expected sha256 {'0' * 64}, got {pin.sha256}.*has been deleted"
    ):
        resources.fetch(wrong)
    assert index.cached_names() == []
    assert not list(index.home.rglob("*.whl"))


def test_a_truncated_wheel_is_refused(index: Any) -> None:
    pin = index.add()
    index.wheel.write_bytes(index.wheel.read_bytes()[:-200])
    with pytest.raises(
        ResourceError, match=r"cannot fetch 'tiny' \(tiny==1.0\)(?s:.*)(invalid|expected sha256)"
    ):
        resources.fetch(pin)
    assert index.cached_names() == []


def test_a_corrupted_wheel_is_refused(index: Any) -> None:
    pin = index.add()
    content = bytearray(index.wheel.read_bytes())
    content[45] ^= 0xFF  # inside the first member's data: pip itself does not look there
    index.wheel.write_bytes(content)
    with pytest.raises(HashMismatchError, match=f"expected sha256 {pin.sha256}, got (?!{pin.sha256})"):
        resources.fetch(pin)
    assert index.cached_names() == []


def test_a_version_that_no_index_has(index: Any) -> None:
    pin = dataclasses.replace(index.add(), version="9.9")
    with pytest.raises(ResourceError, match=r"no wheel of version 9\.9(?s:.*)from versions: 1\.0"):
        resources.fetch(pin)
    assert index.cached_names() == []


def test_a_package_that_no_index_has(index: Any) -> None:
    pin = dataclasses.replace(index.add(), package="nowhere")
    with pytest.raises(
        ResourceError, match=r"no wheel of nowhere at all: this machine is offline, or (?s:.*)ERROR"
    ):
        resources.fetch(pin)


def test_an_index_that_cannot_be_reached(server: Any, index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = index.add()
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # port 9: nothing listens
    monkeypatch.setenv("PIP_RETRIES", "1")  # only then does pip say what happened
    with pytest.raises(ResourceError, match=r"could not be reached(?s:.*)pip's last lines:\n +\S"):
        resources.fetch(pin)


def test_python_without_pip(index: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = index.add()
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    python = str(tmp_path / "bare/bin/python")
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(ResourceError, match=rf"pip is needed.*{re.escape(python)} has no pip.*ensurepip"):
        resources.fetch(pin)
    assert index.cached_names() == []


def test_a_source_archive_is_never_run(index: Any, tmp_path: Path) -> None:
    proof = tmp_path / "setup_was_run"
    source = index.folder / "tiny-2.0.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("tiny-2.0/setup.py", f"open({str(proof)!r}, 'w').close()\n")
        archive.writestr("tiny-2.0/PKG-INFO", "Metadata-Version: 2.1\nName: tiny\nVersion: 2.0\n")
    pin = Resource("tiny", "tiny", "2.0", "0" * 64, {"a.txt": "tiny/a.txt"})
    with pytest.raises(ResourceError, match="no wheel"):
        resources.fetch(pin)
    assert not proof.exists()


def test_no_member_is_written_outside_the_folder(index: Any) -> None:
    pin = index.add(files={"tiny/a.txt": b"a", "tiny/../../evil.txt": b"evil"}, members={"": "tiny/"})
    with pytest.raises(
        ResourceError, match=r"member 'tiny/../../evil.txt' leads out of the resource's folder"
    ):
        resources.fetch(pin)
    assert not list(index.home.rglob("*evil*"))
    assert index.cached_names() == []


def test_a_damaged_copy_is_fetched_again(index: Any) -> None:
    pin = index.add()
    folder = resources.fetch(pin)
    (folder / "a.txt").write_bytes(b"alp")
    assert not resources.is_cached(pin)
    events: list[FetchProgress] = []
    assert resources.fetch(pin, progress=events.append) == folder
    assert events[0].stage == "repair"
    assert events[0].message == "cached copy unusable, a.txt has 3 bytes, expected 6: fetching it again"
    (folder / "a.txt").write_bytes(b"alphA\n")  # damage that keeps the size
    assert resources.is_cached(pin)
    assert not resources.is_cached(pin, verify=True)
    resources.fetch(pin, verify=True)
    assert (folder / "a.txt").read_bytes() == b"alpha\n"


def test_a_damaged_copy_offline_says_both(index: Any) -> None:
    pin = index.add()
    folder = resources.fetch(pin)
    (folder / "a.txt").write_bytes(b"alp")
    index.wheel.unlink()
    with pytest.raises(
        ResourceError, match=r"unusable: a.txt has 3 bytes, expected 6; and cannot fetch 'tiny'"
    ):
        resources.fetch(pin)
    assert (folder / "a.txt").read_bytes() == b"alp"  # still there for whoever wants to look


def test_a_cached_copy_of_another_pin_is_replaced(index: Any) -> None:
    pin = index.add()
    resources.fetch(pin)
    more = dataclasses.replace(pin, members={"u.txt": "tiny/unwanted.txt"})
    assert not resources.is_cached(more)
    folder = resources.fetch(more)
    assert sorted(e.name for e in folder.iterdir()) == [".manifest.json", "u.txt"]
    manifest = json.loads((folder / ".manifest.json").read_text())
    assert manifest["archive_sha256"] == pin.sha256


def test_a_full_disk_is_one_clear_error(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from paddle_infra.data import _unpack

    def full(path: Path, value: object) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_unpack, "write_json", full)
    with pytest.raises(StorageError, match=r"cannot write .*tiny-1\.0: No space left on device"):
        resources.fetch(index.add())
    assert index.cached_names() == []


def test_a_cache_folder_that_cannot_be_made(
    index: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PADDLE_INFRA_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot write the cache folder .*set PADDLE_INFRA_HOME"):
        resources.fetch(index.add())


def test_what_the_callback_raises_ends_the_fetch(index: Any) -> None:
    def refuse(event: FetchProgress) -> None:
        if event.stage == "unpack":
            raise KeyboardInterrupt

    pin = index.add()
    with pytest.raises(KeyboardInterrupt):
        resources.fetch(pin, progress=refuse)
    assert index.cached_names() == []
    resources.fetch(pin)


def test_without_a_terminal_each_stage_is_one_log_record(
    index: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="paddle_infra.data.resources"):
        resources.fetch(index.add())
    said = [r.getMessage().split(" (")[0] for r in caplog.records if r.name == "paddle_infra.data.resources"]
    assert said == ["tiny: download", "tiny: verify", "tiny: unpack", "tiny: done"]


def test_on_a_terminal_there_is_one_line_per_stage(
    index: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    resources.fetch(index.add())
    lines = [line.rsplit("\r", 1)[-1] for line in capsys.readouterr().err.split("\n")]
    assert len(lines) == 5
    assert lines[4] == ""  # the cursor is left at the start of a line
    assert lines[2].startswith("tiny: unpack 0.0/0.0 MB (100%)")


def test_an_unknown_name() -> None:
    with pytest.raises(
        InvalidInputError, match=r"\['minilm-l6', .*, 'conll2003', 'movielens-100k'\], got 'mnist'"
    ):
        resources.fetch("mnist")


def test_the_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_INFRA_HOME", "~/elsewhere")
    assert resources.cache_directory() == Path.home() / "elsewhere"
    monkeypatch.delenv("PADDLE_INFRA_HOME")
    assert resources.cache_directory() == Path.home() / ".cache" / "paddle_infra"


def test_the_catalogue_says_what_people_must_know() -> None:
    for resource in resources.available():
        assert resource.description
        assert resource.licence
        assert resource.size_bytes


def test_the_real_resources_are_intact(
    minilm_dir: Path, trec_file: Path, conll_dir: Path, e5_dir: Path
) -> None:
    assert (e5_dir / "model.safetensors").stat().st_size == 470_045_872
    assert (minilm_dir / "model.safetensors").stat().st_size == 90_868_376
    assert trec_file.stat().st_size == 950_269
    assert sorted(p.name for p in conll_dir.glob("*.txt")) == ["test.txt", "train.txt", "valid.txt"]
    assert all(
        resources.is_cached(name, verify=True)
        for name in ("minilm-l6", "multilingual-e5-small", "trec-questions", "conll2003")
    )
