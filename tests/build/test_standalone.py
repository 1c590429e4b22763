"""The library of the kernels alone: without Paddle, on every instruction set, for another processor, sanitized."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = "libpaddle_infra_kernels.so"
SANITIZERS = "-fsanitize=address,undefined"
# Results of the driver, each about as far apart as single elements: what rounding explains, for numbers of about 1.
TOLERANCE = {"exact": 1e-4, "rough": 5e-2}


def build(folder: Path, **environment: str) -> Path:
    command = [sys.executable, ROOT / "csrc/build.py", "--standalone"]
    command += ["--output-dir", folder, "--build-root", folder / "build"]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == str(folder / LIBRARY)
    return folder


def compile_driver(folder: Path, cxx: str = "g++", *flags: str, name: str = "attention_driver") -> Path:
    """Build a driver of this folder with the library in ``folder``."""
    sources = [ROOT / f"tests/build/{name}.cc", ROOT / "csrc/common/data_type.cc"]
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", *flags, "-I", ROOT / "csrc"]
    link = ["-L", folder, "-l:" + LIBRARY, "-Wl,-rpath,$ORIGIN"]
    subprocess.run([cxx, *options, *sources, *link, "-o", folder / name], check=True)
    return folder / name


def drive(command: list[str | Path], isa: str, count: int) -> dict[str, tuple[str, np.ndarray]]:
    """Run cases with an instruction set: for each case how exact it is, and its results."""
    env = {**os.environ, "PADDLE_INFRA_ISA": isa}
    result = subprocess.run([*command, "0", str(count)], capture_output=True, text=True, env=env, check=False)
    assert result.returncode == 0, result.stderr[-5000:]
    lines = [line.split() for line in result.stdout.splitlines()]
    return {number: (kind, np.array(values, float)) for number, kind, *values in lines}


def check_equal(found, expected):
    assert found.keys() == expected.keys()
    for number, (kind, values) in expected.items():
        np.testing.assert_allclose(
            found[number][1], values, rtol=2e-5, atol=TOLERANCE[kind], err_msg=f"case {number}"
        )


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return build(tmp_path_factory.mktemp("standalone"))


def missing_isas(folder: Path) -> dict[str, str]:
    """Ask the library, in fresh processes, which instruction sets it refuses, and why."""
    code = (
        "import ctypes, sys; error = ctypes.CDLL(sys.argv[1]).paddle_infra_isa_error;"
        "error.restype = ctypes.c_char_p; print((error() or b'').decode())"
    )
    said = {}
    for isa in ("portable", "avx2", "avx512", "avx512_bf16", "amx", "emulate_amx"):
        said[isa] = subprocess.run(
            [sys.executable, "-c", code, folder / LIBRARY],
            capture_output=True,
            text=True,
            env={**os.environ, "PADDLE_INFRA_ISA": isa},
            check=True,
        ).stdout.strip()
    return {isa: text for isa, text in said.items() if text}


def test_it_needs_neither_paddle_nor_python_and_shows_its_entry_points_only(native):
    dynamic = subprocess.run(["readelf", "-dW", native / LIBRARY], capture_output=True, text=True, check=True)
    needed = [line for line in dynamic.stdout.splitlines() if "(NEEDED)" in line]
    assert needed
    assert not [line for line in needed if "paddle" in line or "phi" in line or "iomp" in line]
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", native / LIBRARY], capture_output=True, text=True, check=True
    )
    names = [line.split()[-1] for line in symbols.stdout.splitlines()]
    assert "paddle_infra_attention_cpu_fwd" in names
    assert [name for name in names if not name.startswith("paddle_infra_")] == []
    assert not list(native.glob("*.json"))


def test_no_shared_function_is_compiled_for_a_wide_instruction_set(native):
    """The linker keeps one copy of an inline function for all callers: a wide one would crash older processors."""
    objects = sorted((native / "build").rglob("*_cpu.cc.o"))
    assert len(objects) >= 3
    for file in objects:
        symbols = subprocess.run(["nm", "--defined-only", file], capture_output=True, text=True, check=True)
        weak = [line.split()[-1] for line in symbols.stdout.splitlines() if line.split()[-2] in "WwV"]
        assert [name for name in weak if not name.startswith("DW.ref.")] == [], file.name


@pytest.fixture(scope="module")
def portable_results(native):
    return drive([compile_driver(native)], "portable", 600)


@pytest.mark.parametrize("isa", ["avx2", "avx512", "avx512_bf16", "amx", "emulate_amx"])
def test_every_instruction_set_gives_the_same(native, portable_results, isa):
    refusal = missing_isas(native).get(isa)
    if refusal:
        pytest.skip(refusal)
    check_equal(drive([native / "attention_driver"], isa, 600), portable_results)


@pytest.fixture(scope="module")
def portable_linear(native):
    results = drive([compile_driver(native, name="linear_driver")], "portable", 400)
    # Everything starts as NaN, which the comparison below would take for equal.
    assert all(np.isfinite(values).all() for _, values in results.values())
    return results


@pytest.mark.parametrize("isa", ["avx2", "avx512", "avx512_bf16", "amx", "emulate_amx"])
def test_every_instruction_set_gives_the_same_linear_layers_and_losses(native, portable_linear, isa):
    refusal = missing_isas(native).get(isa)
    if refusal:
        pytest.skip(refusal)
    kinds = [kind for kind, _ in portable_linear.values()]
    assert kinds.count("exact") > 100
    assert kinds.count("rough") > 100
    check_equal(drive([native / "linear_driver"], isa, 400), portable_linear)


def test_number_of_cases(portable_results):
    kinds = [kind for kind, _ in portable_results.values()]
    assert kinds.count("exact") > 100
    assert kinds.count("rough") > 100


def test_aarch64_under_an_emulator(tmp_path_factory, portable_results):
    cxx, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if not cxx or not emulator:
        pytest.skip("no aarch64-linux-gnu-g++ or no qemu-aarch64: the code for aarch64 is not tested")
    folder = build(tmp_path_factory.mktemp("aarch64"), CXX=cxx)
    driver = compile_driver(folder, cxx)
    for isa in ("portable", "emulate_amx"):
        found = drive([emulator, "-L", "/usr/aarch64-linux-gnu", driver], isa, 60)
        check_equal(found, {number: portable_results[number] for number in found})


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path_factory, native):
    folder = build(
        tmp_path_factory.mktemp("sanitized"),
        CXXFLAGS=f"{SANITIZERS} -fno-sanitize-recover=all -O1",
        LDFLAGS=SANITIZERS,
    )
    isas = {"portable", "avx2", "avx512", "avx512_bf16", "amx", "emulate_amx"} - missing_isas(native).keys()
    for name in ("attention_driver", "linear_driver"):
        driver = compile_driver(folder, "g++", SANITIZERS, name=name)
        for isa in isas:
            found = drive([driver], isa, 400)
            assert found
            assert name != "linear_driver" or all(np.isfinite(v).all() for _, v in found.values())


def test_flags_of_the_environment_come_last(tmp_path):
    """-Werror fails on a warning that -Wall alone only prints."""
    for part in ("csrc/common", "paddle_infra"):
        (tmp_path / part).mkdir(parents=True)
    shutil.copy(ROOT / "csrc/build.py", tmp_path / "csrc")
    (tmp_path / "csrc/instances.json").write_text("{}")
    (tmp_path / "csrc/small.cc").write_text("static int unused;\n")
    (tmp_path / "csrc/small_op.cc").write_text('#include "paddle/phi/api/all.h"\n')
    command = [sys.executable, tmp_path / "csrc/build.py", "--standalone"]
    for flags, status in (("", 0), ("-Werror", 1)):
        env = {**os.environ, "CXXFLAGS": flags}
        result = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert result.returncode == status, result.stdout
        assert "small.cc:1:12: " in result.stdout
    assert (tmp_path / "build/standalone" / LIBRARY).is_file()
