"""The wheel that pip builds, and the requirement on Paddle in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("setup.py", "pyproject.toml", "LICENSE", "README.md", "csrc", "paddle_infra")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what a wheel is built from, without anything that was built."""
    folder = tmp_path_factory.mktemp("source")
    skip = shutil.ignore_patterns("_lib", "__pycache__", "*.so")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=skip)
        elif (ROOT / part).exists():
            shutil.copy(ROOT / part, folder)
    return folder


def pip_wheel(source: Path, target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-v",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(target),
        ".",
    ]
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    return subprocess.run(command, cwd=source, capture_output=True, text=True, env=env, check=False)


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("wheel")
    result = pip_wheel(source, target)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    (path,) = target.iterdir()
    return path


def test_contents(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "paddle_infra/py.typed",
        "paddle_infra/_lib/libpaddle_infra.so",
        "paddle_infra/_lib/libpaddle_infra.json",
        "paddle_infra/ops/linear_cross_entropy.py",
    } <= names
    strays = [
        n for n in names if n.endswith((".o", ".d", ".ninja", ".cc", ".h", ".pyc")) or n.startswith("build")
    ]
    assert strays == []
    assert {n.split("/")[0] for n in names} == {"paddle_infra", "paddle_infra-0.1.0.dist-info"}


def test_name_and_requirements(wheel):
    assert re.fullmatch(r"paddle_infra-0\.1\.0-py3-none-(many)?linux\w+\.whl", wheel.name)
    metadata = zipfile.ZipFile(wheel).read("paddle_infra-0.1.0.dist-info/METADATA").decode()
    requirements = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    paddles = [r for r in requirements if r.startswith("paddlepaddle")]
    assert [re.split(r"[<>=]", r)[0] for r in paddles] == ["paddlepaddle"]
    assert {r.split("==")[1].strip("\"' ") for r in requirements if "extra ==" in r} >= {
        "onnx",
        "nlp",
        "bench",
        "dev",
    }


def test_the_wheel_runs_where_it_is_unpacked(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "from paddle_infra._core import extension; import paddle_infra; status = extension.require();"
        "print(paddle_infra.__file__, status.path)"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stderr
    assert all(path.startswith(str(tmp_path)) for path in result.stdout.split())


def requirement(**environment: str) -> subprocess.CompletedProcess[str]:
    """Which Paddle setup.py asks for, without building anything."""
    code = (
        "import setuptools; setuptools.setup = lambda **kw: print(kw['install_requires'][0]);"
        "import runpy; runpy.run_path('setup.py')"
    )
    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )


def test_paddle_by_setting_and_by_what_is_installed(tmp_path):
    assert requirement().stdout.strip() == "paddlepaddle>=3.3,<3.4"
    assert requirement(PADDLE_INFRA_PADDLE="paddlepaddle-gpu").stdout.strip() == "paddlepaddle-gpu>=3.3,<3.4"
    wrong = requirement(PADDLE_INFRA_PADDLE="torch")
    assert wrong.returncode != 0
    assert "PADDLE_INFRA_PADDLE: expected paddlepaddle or paddlepaddle-gpu, got 'torch'" in wrong.stderr
    installed = tmp_path / "paddlepaddle_gpu-3.3.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: paddlepaddle-gpu\nVersion: 3.3.1\n")
    assert requirement(PYTHONPATH=str(tmp_path)).stdout.strip() == "paddlepaddle-gpu>=3.3,<3.4"


def test_a_compile_error_reaches_the_user_of_pip(source, tmp_path):
    file = source / "csrc/common/cpu_target.cc"
    kept = file.read_text()
    file.write_text(kept + "\nint broken() { return undeclared_name; }\n")
    try:
        result = pip_wheel(source, tmp_path)
    finally:
        file.write_text(kept)
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert "undeclared_name" in output
    assert "error: compiling the operators failed (ninja exit status 1)" in output
