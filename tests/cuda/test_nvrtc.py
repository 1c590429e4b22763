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
    "cmath": "#define INFINITY __int_as_float(0x7f800000)\n#define NAN __int_as_float(0x7fffffff)",
    "cstddef": "",
    "climits": "#define INT_MAX 2147483647",
    "algorithm": "namespace std { template <class T> T min(T a, T b) { return b < a ? b : a; }"
    "template <class T> T max(T a, T b) { return a < b ? b : a; }"
    "template <class T> T clamp(T x, T low, T high) { return min(max(x, low), high); } }",
    "type_traits": "namespace std { template <class T, T v> struct integral_constant { static constexpr T value = v; };"
    "template <class T> struct common_type { using type = T; };"
    "template <class T> using common_type_t = typename common_type<T>::type;"
    "template <class T> struct remove_const { using type = T; };"
    "template <class T> struct remove_const<const T> { using type = T; };"
    "template <class T> using remove_const_t = typename remove_const<T>::type;"
    "template <class A, class B> struct is_same : integral_constant<bool, false> {};"
    "template <class A> struct is_same<A, A> : integral_constant<bool, true> {}; }",
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
    paths = [path for ending in ("h", "cuh") for path in CSRC.rglob(f"*.{ending}")]
    found = {path.relative_to(CSRC).as_posix(): path.read_text() for path in paths}
    return found | {name: f"#pragma once\n{text}\n" for name, text in HEADERS.items()}


# They choose an instance, and have no kernels.
ENTRY_POINTS = (
    "attention/attention.cu",
    "attention/attention_decode.cu",
    "attention/attention_f32.cu",
    "linear_cross_entropy/linear_cross_entropy.cu",
    "linear_topk/linear_topk.cu",
)


def instances() -> list[tuple[str, tuple[str, ...]]]:
    """Return every source with device code, with the macros of each of its instances."""
    return [job for job in all_instances() if job[0] not in ENTRY_POINTS]


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
