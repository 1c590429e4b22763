"""Device code also compiles with the run-time compiler of CUDA 12, without headers of the host or of CUDA 13."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import pytest

from tests.cuda.emulator import CSRC
from tests.cuda.static_budget import all_instances

# What C++'s headers give to device code: this compiler has no headers of the system.
HEADERS = {
    "cstdint": "using int8_t = signed char; using uint8_t = unsigned char; using int16_t = short;"
    "using uint16_t = unsigned short; using int32_t = int; using uint32_t = unsigned int; using int64_t = long long;"
    "using uint64_t = unsigned long long; using uintptr_t = unsigned long long;",
    "cmath": "#define INFINITY __int_as_float(0x7f800000)\n",
    "cstddef": "",
    "algorithm": "",
    "type_traits": "namespace std { template <class T> struct common_type { using type = T; };"
    "template <class T> using common_type_t = typename common_type<T>::type; }",
    # Types are built in; launchers are compiled too, as if device code launched.
    "cuda_runtime.h": "const char* cudaGetErrorString(cudaError_t); cudaError_t cudaGetLastError();"
    "template <class K> cudaError_t cudaFuncSetAttribute(K, cudaFuncAttribute, int);",
}
OPTIONS = [
    "--std=c++17",
    "--gpu-architecture=compute_80",
    "--device-as-default-execution-space",
    "--relocatable-device-code=true",
    "--diag-suppress=1097",  # visibility, which only hosts have
]


class Nvrtc:
    """The compiler, by its C functions."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))

    def version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        assert self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == 0
        return major.value, minor.value

    def compile(self, source: str, headers: dict[str, str], options: list[str]) -> tuple[bool, str]:
        """Return whether it compiles, and what the compiler says."""
        program = ctypes.c_void_p()
        texts = (ctypes.c_char_p * len(headers))(*(text.encode() for text in headers.values()))
        names = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
        arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        call = self.library.nvrtcCreateProgram
        assert call(ctypes.byref(program), source.encode(), b"kernels.cu", len(headers), texts, names) == 0
        status = self.library.nvrtcCompileProgram(program, len(options), arguments)
        size = ctypes.c_size_t()
        self.library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.library.nvrtcGetProgramLog(program, log)
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return status == 0, log.value.decode()


@pytest.fixture(scope="module")
def nvrtc():
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for path in Path(place).glob("cuda_nvrtc/lib/libnvrtc.so.12"):
            return Nvrtc(path)
    pytest.skip("no NVRTC of CUDA 12: `make check-cuda` installs nvidia-cuda-nvrtc-cu12")


def headers_of_csrc() -> dict[str, str]:
    found = {path.relative_to(CSRC).as_posix(): path.read_text() for path in CSRC.rglob("*.h")}
    found |= {path.relative_to(CSRC).as_posix(): path.read_text() for path in CSRC.rglob("*.cuh")}
    return found | HEADERS


# Launchers of the others want more of the host's headers than are made up above.
COVERED = ("attention/attention_fwd_instance.cu",)


def instances() -> list[tuple[str, tuple[str, ...]]]:
    """Return the instances that are covered."""
    return [job for job in all_instances() if job[0] in COVERED]


@pytest.mark.parametrize(("source", "macros"), instances(), ids=lambda value: str(value))
def test_device_code_compiles_with_cuda_12(nvrtc, source, macros):
    assert nvrtc.version()[0] == 12
    works, log = nvrtc.compile((CSRC / source).read_text(), headers_of_csrc(), [*OPTIONS, *macros])
    assert works, log[-3000:]


def test_what_is_wrong_is_found(nvrtc):
    source = '#include "common/cuda_primitives.h"\n__global__ void f() { missing(); }'
    works, log = nvrtc.compile(source, headers_of_csrc(), OPTIONS)
    assert not works
    assert "missing" in log
