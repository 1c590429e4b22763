"""The device of these tests notices what kernels do wrong: functions in the place of kernels, no GPU needed."""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from tests.gpu.device import GUARD, Device
from tests.gpu.memory import TorchMemory


class Params(ctypes.Structure):
    _fields_ = (("x", ctypes.c_void_p), ("y", ctypes.c_void_p))


class HostMemory:
    """Plain arrays: no emulator looks at what is used."""

    stream = 7

    def place(self, content, guard):
        assert guard == GUARD
        return content.copy()

    def address(self, placed):
        return placed.ctypes.data

    def fetch(self, placed):
        return placed.copy()

    def release(self):
        pass


@pytest.fixture
def arrays():
    return {"x": np.arange(6, dtype="float32").reshape(2, 3), "y": np.array(0.0, "float32")}


def launch(arrays, body):
    """Launch ``body``, which gets the parameters and the stream."""
    Device(None, HostMemory()).launch(lambda p, stream: body(p._obj, stream), Params(), arrays)


def write(address, value):
    ctypes.c_float.from_address(address).value = value


def test_results_come_back_and_the_stream_is_the_memory_s(arrays):
    def body(p, stream):
        assert stream == 7
        assert ctypes.c_float.from_address(p.x + 4 * 5).value == 5.0
        write(p.x + 4 * 4, -1.0)
        write(p.y, 3.0)

    launch(arrays, body)
    assert arrays["x"].tolist() == [[0.0, 1.0, 2.0], [3.0, -1.0, 5.0]]
    assert arrays["y"] == 3.0


@pytest.mark.parametrize("offset", [-4, 24, -GUARD, 24 + GUARD - 4])
def test_writing_beside_an_array_is_noticed(arrays, offset):
    with pytest.raises(AssertionError, match="x: written outside of the array"):
        launch(arrays, lambda p, stream: write(p.x + offset, 0.0))


def test_an_error_of_the_entry_point_is_told(arrays):
    with pytest.raises(AssertionError, match="no such thing"):
        launch(arrays, lambda p, stream: b"no such thing")


def test_what_could_not_be_copied_back_or_pointed_to_is_refused(arrays):
    with pytest.raises(AssertionError, match="x: a copy could not be written back"):
        launch({"x": arrays["x"].T}, lambda p, stream: None)
    with pytest.raises(AssertionError, match="z: no field of Params"):
        launch({"z": arrays["y"]}, lambda p, stream: None)


def test_a_test_that_counts_is_skipped_where_it_looks():
    with pytest.raises(pytest.skip.Exception, match="compared values only"):
        Device(None, HostMemory()).take_counters()["mma"]


class FakeTorch:
    """What TorchMemory asks of PyTorch, on the CPU; notes the order of calls."""

    def __init__(self):
        self.calls = []
        stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: self.calls.append("synchronize"))
        self.cuda = SimpleNamespace(
            Stream=lambda: stream, stream=self.on, _sleep=lambda n: self.calls.append("sleep")
        )

    @contextmanager
    def on(self, stream):
        self.calls.append(f"stream {stream.cuda_stream}")
        yield
        self.calls.append("left")

    def from_numpy(self, content):
        self.calls.append("from_numpy")
        memory = content.copy()
        copy = SimpleNamespace(
            data_ptr=lambda: memory.ctypes.data, cpu=lambda: SimpleNamespace(numpy=lambda: memory)
        )
        pinned = SimpleNamespace(
            to=lambda device, non_blocking: self.calls.append((device, non_blocking)) or copy
        )
        return SimpleNamespace(pin_memory=lambda: pinned)


def test_memory_of_pytorch_is_copied_on_its_own_stream_behind_a_pause(monkeypatch, arrays):
    torch = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    memory = TorchMemory()
    Device(None, memory).launch(lambda p, stream: write(p._obj.x, float(stream)), Params(), arrays)
    assert arrays["x"][0, 0] == 7.0
    one = ["from_numpy", "stream 7", "sleep", ("cuda", True), "left"]
    assert torch.calls == [*one, *one, "synchronize", "synchronize"]
    assert not memory._sources


def test_what_is_asked_of_pytorch_exists():
    torch = pytest.importorskip("torch")
    for name in ("Stream", "stream", "_sleep", "Event", "memory_allocated", "max_memory_allocated", "empty_cache",
                 "reset_peak_memory_stats", "current_stream", "get_device_properties"):  # fmt: skip
        assert callable(getattr(torch.cuda, name)), name
    assert callable(torch.Tensor.pin_memory)
