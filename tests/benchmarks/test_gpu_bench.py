"""The benchmark of GPUs on the CPU, with tiny cases: everything but the GPU itself and this package's library.

That is in tests/gpu/test_gpu_bench.py, with emulated kernels. Nothing is recorded.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types

import pytest

from benchmarks import _gpu_contestants as contestants
from benchmarks import bench_gpu
from benchmarks._gpu_cases import CASES, TINY, Attention, Decode, Head, Topk
from benchmarks._gpu_gold import error_of, gold
from benchmarks._gpu_library import OURS
from benchmarks._gpu_machine import Machine, parse_state

torch = pytest.importorskip("torch")


@pytest.fixture
def machine(monkeypatch):
    """PyTorch on the CPU; in the place of this package's kernels, PyTorch's plain way."""
    plain = {"out": "torch-math", "loss": "torch"}

    def instead(machine, case, inputs):
        name = plain["out" if isinstance(case, Attention | Decode) else "loss"]
        return contestants.contestant(machine, name, case, inputs)

    monkeypatch.setattr(contestants, "ours", instead)
    return Machine("cpu", None)


@pytest.fixture
def peers(monkeypatch):
    """Modules with the peers' functions and their signatures."""
    functional = torch.nn.functional

    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
        swapped = (x.transpose(1, 2) for x in (q, k, v))
        return functional.scaled_dot_product_attention(*swapped, is_causal=causal).transpose(1, 2)

    def flash_attn_with_kvcache(q, k_cache, v_cache, k=None, v=None, cache_seqlens=None, causal=False):
        assert (cache_seqlens == k_cache.shape[1]).all()
        assert causal
        swapped = (x.transpose(1, 2) for x in (q, k_cache, v_cache))
        return functional.scaled_dot_product_attention(*swapped, enable_gqa=True).transpose(1, 2)

    def linear_cross_entropy(e, c, targets, bias=None, ignore_index=-100):
        return functional.cross_entropy((e @ c.T).float(), targets)

    class LigerFusedLinearCrossEntropyFunction:
        @staticmethod
        def apply(_input, weight, target, bias=None):
            return linear_cross_entropy(_input, weight, target), None

    modules = {
        "flash_attn": {
            "flash_attn_func": flash_attn_func,
            "flash_attn_with_kvcache": flash_attn_with_kvcache,
        },
        "liger_kernel": {},
        "liger_kernel.ops": {},
        "liger_kernel.ops.fused_linear_cross_entropy": {
            "LigerFusedLinearCrossEntropyFunction": LigerFusedLinearCrossEntropyFunction
        },
        "cut_cross_entropy": {"linear_cross_entropy": linear_cross_entropy},
    }
    for name, members in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(members, __spec__=importlib.machinery.ModuleSpec(name, None))
        monkeypatch.setitem(sys.modules, name, module)
    contestants.is_there.cache_clear()
    yield
    contestants.is_there.cache_clear()


@pytest.mark.parametrize("case", TINY, ids=str)
def test_all_contestants_of_a_case_are_compared_and_timed(machine, peers, case):
    rows = bench_gpu.rows_of(machine, case, 2)
    names = [row["contestant"] for row in rows]
    expected = {OURS, "torch-math", "flash-attn"} if isinstance(case, Attention | Decode) else {OURS, "torch"}
    if isinstance(case, Head):
        expected |= {"torch-compile", "liger", "cut-cross-entropy"}
    assert names[0] == OURS
    assert expected <= set(names)
    for row in rows:
        assert row.keys() == rows[0].keys()
        assert 0.0 < row["q20_ms"] <= row["median_ms"] <= row["q80_ms"]
        assert 0.0 < row["error"] < 0.03
        assert row["teraflops"] == pytest.approx(case.operations / row["median_ms"] * 1e-9)
        assert row["gpu"] == "emulated"
        assert row["predicted_ms"] == ""  # nothing is known of this GPU


def test_a_wrong_result_is_not_timed(machine, monkeypatch):
    right = contestants._sdpa

    def wrong(machine, name, case, inputs):
        call = right(machine, name, case, inputs)
        return (lambda: 1.1 * call()) if name == "torch-flash" else call

    monkeypatch.setattr(contestants, "_sdpa", wrong)
    with pytest.raises(RuntimeError, match=r"torch-flash, .* of the largest value off"):
        bench_gpu.rows_of(machine, TINY[0], 1)


@pytest.mark.parametrize("case", TINY, ids=str)
def test_errors_of_every_result_count(machine, case):
    inputs = contestants.make_inputs(machine, case)
    true = gold(machine, case, inputs)
    results = contestants.contestant(machine, OURS, case, inputs)()
    assert error_of(machine, case, results, true) < 0.03
    for name, result in results.items():
        other = (result + 1) % case.classes if name == "index" else torch.full_like(result, float("nan"))
        assert not error_of(machine, case, {**results, name: other}, true) < 0.03
        with pytest.raises((ValueError, KeyError)):
            error_of(machine, case, {key: x for key, x in results.items() if key != name}, true)


def test_every_kernel_has_cases_and_labels_tell_them_apart():
    keys = [(case.kernel, case.label) for case in CASES]
    assert len(set(keys)) == len(keys)
    assert {case.kernel for case in CASES} == {case.kernel for case in TINY}
    assert {type(case) for case in CASES} == {Attention, Decode, Head, Topk}


def test_what_nvidia_smi_says():
    assert parse_state("1980, 2619, 570.86.15\n") == ["1980", "2619", "570.86.15"]
    assert parse_state("No devices were found\n") == ["", "", ""]


def test_without_a_gpu_it_says_so(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
    with pytest.raises(SystemExit, match="there is no GPU that PyTorch can use"):
        bench_gpu.main()


class FakeCuda:
    """A GPU on which a run takes 1 ms, and 100 bytes more while it runs."""

    def __init__(self):
        self.now, self.held, self.peak = 0.0, 1000, 0
        self.synchronize = lambda: None

    def Event(self, enable_timing):  # noqa: N802 - PyTorch's name
        assert enable_timing
        event = types.SimpleNamespace(at=None, synchronize=lambda: None)
        event.record = lambda: setattr(event, "at", self.now)
        event.elapsed_time = lambda end: end.at - event.at
        return event

    def reset_peak_memory_stats(self):
        self.peak = self.held

    def memory_allocated(self):
        return self.held

    def max_memory_allocated(self):
        return self.peak

    def run(self):
        self.now += 1.0
        self.peak = max(self.peak, self.held + 100)


def test_times_and_memory_of_a_gpu():
    machine, cuda = Machine("cuda", None), FakeCuda()
    machine.torch = types.SimpleNamespace(cuda=cuda)
    assert machine.measure(cuda.run, 8) == pytest.approx(1e-3)
    before = machine.allocated()
    cuda.held += 40  # what a contestant keeps
    assert machine.peak_of(cuda.run, before) == 140
