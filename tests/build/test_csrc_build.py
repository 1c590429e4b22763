"""csrc/build.py, on a copy of the sources (small where the real ones are not the point)."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from tests.ops.linear_cross_entropy_cases import make_case, run

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
    (tmp_path / "csrc/instances.json").write_text("{}")
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
    assert description["abi"] == load_builder().abi_number()
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


def test_cuda_without_nvcc_fails_before_anything_is_compiled(project, monkeypatch, tmp_path):
    builder = load_builder(project)
    which = shutil.which
    monkeypatch.setattr(builder.shutil, "which", lambda name: None if "nvcc" in name else which(name))
    monkeypatch.setenv("PADDLE_INFRA_CUDA", "1")
    with pytest.raises(
        builder.BuildError, match=r"nvcc was not found in NVCC, CUDA_HOME, PATH.*PADDLE_INFRA_CUDA=0"
    ):
        builder.build(tmp_path / "out", tmp_path / "build")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "build").exists()


def skip_without_nvcc() -> None:
    builder = load_builder()
    try:
        builder.find_nvcc()
    except builder.BuildError:
        pytest.skip("no nvcc: the CUDA part of the build is not tested")


def test_a_cuda_source_is_compiled_and_linked(project):
    skip_without_nvcc()
    kernel = '#include "common/abi.h"\n__global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }\n'
    launch = "PADDLE_INFRA_EXPORT void launch(float* x) { twice<<<1, 32>>>(x); }\n"
    (project / "csrc/small.cu").write_text(kernel + launch)
    result = build(project, PADDLE_INFRA_CUDA="1", PADDLE_INFRA_CUDA_ARCH_LIST="80")
    assert result.returncode == 0, result.stdout + result.stderr
    description = json.loads((project / "out/libpaddle_infra.json").read_text())
    assert description["cuda"] is True
    assert "-gencode=arch=compute_80,code=sm_80" in description["cuda_flags"]


CPU_STEP = """
import sys
import numpy as np
import paddle
from paddle.utils.cpp_extension import load_op_meta_info_and_register_op

load_op_meta_info_and_register_op(sys.argv[1])
data = np.load(sys.argv[2])
tensors = {name: paddle.to_tensor(data[name]) for name in data}
for name in ("hidden", "weight", "bias"):
    tensors[name].stop_gradient = False
inputs = [tensors[name] for name in ("hidden", "weight", "bias", "label")]
# Cross entropy, ignore_index, label_smoothing, z_loss, softcap, gamma, mean, float32, [V, D], gradients at once, both.
options = (0, -100, 0.1, 0.0, 0.0, 0.0, 2, 0, False, True, True, True)
loss = paddle._C_ops._run_custom_op("paddle_infra_linear_cross_entropy_bias", *inputs, None, None, *options)[0]
loss.backward()
gradients = {name: tensors[name].grad.numpy() for name in ("hidden", "weight", "bias")}
np.savez(sys.argv[2], loss=loss.numpy(), **gradients)
"""

LAUNCH = """
import ctypes, sys
import paddle  # has the libraries that this one needs

launch = ctypes.CDLL(sys.argv[1]).paddle_infra_linear_cross_entropy_cuda_fwd
launch.argtypes, launch.restype = [ctypes.c_char_p, ctypes.c_void_p], ctypes.c_char_p
ones = bytes([1, 0, 0, 0, 0, 0, 0, 0]) * 40  # one row, feature and class; nothing of it is read before the launch
print("CUDA says:", launch(ones, None))
"""


@pytest.fixture(scope="module")
def cuda_library(tmp_path_factory):
    """The real sources, compiled with nvcc for one architecture."""
    skip_without_nvcc()
    folder = tmp_path_factory.mktemp("cuda")
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    (folder / "paddle_infra").mkdir()
    shutil.copy(ROOT / "paddle_infra/_version.py", folder / "paddle_infra")
    result = build(folder, PADDLE_INFRA_CUDA="1", PADDLE_INFRA_CUDA_ARCH_LIST="80")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "out/libpaddle_infra.so"


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_cuda_build_runs_cpu_tensors_as_the_cpu_build_does(cuda_library, tmp_path):
    case = make_case(37, 20, 301, ignored=0.2, label_smoothing=0.1)
    inputs = {"hidden": case.hidden, "weight": case.weight, "bias": case.bias, "label": case.label}
    np.savez(tmp_path / "data.npz", **inputs)
    python(CPU_STEP, str(cuda_library), str(tmp_path / "data.npz"))
    found, expected = np.load(tmp_path / "data.npz"), run(case, "fused")
    for name, value in expected.items():
        assert found[name].tobytes() == value.tobytes(), name


def test_the_cuda_build_says_so_and_brings_its_cuda_runtime(cuda_library):
    description = json.loads(cuda_library.with_suffix(".json").read_text())
    assert description["cuda"] is True
    assert "-gencode=arch=compute_80,code=sm_80" in description["cuda_flags"]
    dynamic = subprocess.run(
        ["readelf", "-dW", cuda_library], capture_output=True, text=True, check=True
    ).stdout
    assert "libcuda" not in dynamic
    assert "RUNPATH" not in dynamic


def test_a_cuda_kernel_without_a_gpu_is_an_error(cuda_library):
    if paddle.device.cuda.device_count() > 0 or shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU")
    said = python(LAUNCH, str(cuda_library))
    assert "CUDA driver version is insufficient" in said or "no CUDA-capable device" in said


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
