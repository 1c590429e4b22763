"""csrc/build.py, on a copy of the sources (small where the real ones are not the point)."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = '#include "common/abi.h"\nPADDLE_INFRA_EXPORT int answer() { return PADDLE_INFRA_ABI; }\n'


def load_builder(root: Path = ROOT):
    spec = importlib.util.spec_from_file_location("csrc_build", root / "csrc/build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["csrc_build"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path):
    """A project whose only source is a few lines."""
    (tmp_path / "csrc/common").mkdir(parents=True)
    (tmp_path / "paddle_infra").mkdir()
    shutil.copy(ROOT / "csrc/build.py", tmp_path / "csrc")
    shutil.copy(ROOT / "csrc/common/abi.h", tmp_path / "csrc/common")
    shutil.copy(ROOT / "paddle_infra/_version.py", tmp_path / "paddle_infra")
    (tmp_path / "csrc/small.cc").write_text(SMALL)
    return tmp_path


def build(project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "csrc/build.py"), "--output-dir", str(project / "out")]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_builds_a_library_and_its_description_without_debris(project):
    result = build(project)
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in (project / "out").iterdir()) == [
        "libpaddle_infra.json",
        "libpaddle_infra.so",
    ]
    description = json.loads((project / "out/libpaddle_infra.json").read_text())
    assert description["abi"] == 1
    assert description["package_version"] == "0.1.0"
    assert description["paddle_version"].startswith("3.3.")
    assert description["cuda"] is False
    assert "-Wall" in description["flags"]
    assert not any(str(ROOT) in flag for flag in description["flags"])


def test_a_second_build_does_nothing(project):
    build(project)
    before = {p: p.stat().st_mtime_ns for p in (project / "out").iterdir()}
    result = build(project)
    assert "ninja: no work to do." in result.stdout
    assert {p: p.stat().st_mtime_ns for p in (project / "out").iterdir()} == before


def test_a_changed_header_rebuilds_what_includes_it_only(project):
    (project / "csrc/other.cc").write_text("int unrelated() { return 1; }\n")
    build(project)
    header = project / "csrc/common/abi.h"
    header.write_text(header.read_text() + "\n// changed\n")
    result = build(project)
    assert "small.cc" in result.stdout
    assert "other.cc" not in result.stdout


def test_another_paddle_version_rebuilds_everything(project):
    build(project)
    script = project / "csrc/build.py"
    script.write_text(script.read_text().replace('version["full_version"]', '"3.3.77"'))
    result = build(project)
    assert "compile" in result.stdout
    assert json.loads((project / "out/libpaddle_infra.json").read_text())["paddle_version"] == "3.3.77"


def test_a_compile_error_is_shown_as_it_is_and_keeps_the_old_library(project):
    build(project)
    old = (project / "out/libpaddle_infra.so").read_bytes()
    (project / "csrc/small.cc").write_text(SMALL + "int broken() { return undeclared_name; }\n")
    result = build(project)
    assert result.returncode == 1
    assert "small.cc:3:23: error:" in result.stdout
    assert "undeclared_name" in result.stdout
    assert result.stderr.startswith("error: compiling the operators failed (ninja exit status 1)")
    assert (project / "out/libpaddle_infra.so").read_bytes() == old


def test_a_link_error_is_shown(project):
    (project / "csrc/small.cc").write_text("int missing(); int caller() { return missing(); }\n")
    result = build(project)
    assert result.returncode == 1
    assert "undefined reference to `missing()'" in result.stdout


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"CXX": "no-such-compiler"},
            "no C++ compiler: 'no-such-compiler' not found; install g++ or set CXX",
        ),
        ({"MAX_JOBS": "many"}, "MAX_JOBS must be a positive number, got 'many'"),
        ({"PADDLE_INFRA_CUDA": "yes"}, "PADDLE_INFRA_CUDA: expected 0 or 1, got 'yes'"),
        ({"PADDLE_INFRA_CUDA": "1"}, "PADDLE_INFRA_CUDA=1, but this version has no CUDA sources yet"),
    ],
)
def test_wrong_settings(project, environment, message):
    result = build(project, **environment)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {message}")


def test_cuda_names():
    builder = load_builder()
    assert builder.cuda_arch_flags("80; 90a") == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_80,code=compute_80",
    ]
    for bad, message in (("sm_80", "got 'sm_80'"), (" ; ", "is empty")):
        with pytest.raises(builder.BuildError, match=message):
            builder.cuda_arch_flags(bad)


def test_a_cuda_source_without_nvcc(project, monkeypatch):
    builder = load_builder(project)
    monkeypatch.setattr(builder.shutil, "which", lambda name: None)
    with pytest.raises(builder.BuildError, match="nvcc was not found in NVCC, CUDA_HOME, PATH"):
        builder.find_nvcc()


def test_a_cuda_source_is_compiled_and_linked(project):
    try:
        load_builder(project).find_nvcc()
    except RuntimeError:
        pytest.skip("no nvcc: the CUDA part of the build is not tested")
    kernel = '#include "common/abi.h"\n__global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }\n'
    launch = "PADDLE_INFRA_EXPORT void launch(float* x) { twice<<<1, 32>>>(x); }\n"
    (project / "csrc/small.cu").write_text(kernel + launch)
    result = build(project, PADDLE_INFRA_CUDA="1", PADDLE_INFRA_CUDA_ARCH_LIST="80")
    assert result.returncode == 0, result.stdout + result.stderr
    description = json.loads((project / "out/libpaddle_infra.json").read_text())
    assert description["cuda"] is True
    assert "-gencode=arch=compute_80,code=sm_80" in description["cuda_flags"]


def test_the_real_library_needs_no_python_no_run_path_and_one_openmp():
    library = ROOT / "paddle_infra/_lib/libpaddle_infra.so"
    dynamic = subprocess.run(["readelf", "-dW", library], capture_output=True, text=True, check=True).stdout
    symbols = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic
    assert "libgomp" not in dynamic
    assert "libiomp5.so" in dynamic
    assert "NOW" in dynamic
    assert not [line for line in symbols.splitlines() if line.split()[-1].startswith(("Py", "_Py"))]
    # Paddle's OpenMP runtime does not have them: each thread would run the whole loop.
    assert "GOMP_loop" not in symbols
