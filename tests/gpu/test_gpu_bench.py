"""The benchmark of GPUs with this package's emulated kernels, and the work that its model thinks they do.

Nothing is recorded: times of emulated kernels say nothing.
"""

from __future__ import annotations

import pytest

from benchmarks._gpu_cases import TINY, Attention, Decode, Head, Topk
from benchmarks._gpu_gold import TOLERANCE
from benchmarks._gpu_library import OURS
from benchmarks._gpu_machine import Machine
from benchmarks._gpu_peaks import GPUS
from benchmarks._gpu_work import work_of
from benchmarks.bench_gpu import rows_of
from tests.cuda.attention_decode_emulated import EmulatedDecode
from tests.cuda.attention_emulated import EmulatedAttention
from tests.cuda.emulated_library import emulated_kernels
from tests.cuda.linear_cross_entropy_emulated import EmulatedHead
from tests.cuda.linear_topk_emulated import EmulatedTopk
from tests.ops import linear_cross_entropy_cases, linear_topk_cases
from tests.ops.attention_inputs import make_case

pytestmark = pytest.mark.slow
HEADS = 2


@pytest.fixture(scope="module")
def emulated():
    kernels = emulated_kernels()
    kernels.configure(0)
    return kernels


@pytest.mark.parametrize("case", TINY, ids=str)
def test_the_benchmark_times_kernels_whose_results_are_right(emulated, case):
    pytest.importorskip("torch")
    rows = {row["contestant"]: row for row in rows_of(Machine("cpu", emulated.library), case, 1)}
    assert 0.0 < rows[OURS]["error"] < TOLERANCE
    assert len(rows) > 1


def counted(emulator, case):
    """What kernels count for a case."""
    emulator.take_counters()
    if isinstance(case, Attention):
        shape = (case.batch, case.length, case.length, case.heads, case.heads, case.head_dim)
        inputs = make_case(*shape, dtype="bfloat16", causal=case.is_causal)
        kernels = EmulatedAttention(emulator)
        (kernels.run_both if case.is_backward else kernels.run)(inputs)
        return emulator.take_counters()
    if isinstance(case, Decode):
        inputs = make_case(
            case.batch, 1, case.length, case.heads, case.kv_heads, case.head_dim, dtype="bfloat16"
        )
        EmulatedDecode(emulator).run(inputs)
        return emulator.take_counters()
    if isinstance(case, Topk):
        EmulatedTopk(emulator).run(linear_topk_cases.make_case(*case), "bfloat16")
        return emulator.take_counters()
    counts: dict[str, dict[str, int]] = {}
    inputs = linear_cross_entropy_cases.make_case(*case[:3], bias=False, weight_layout="vd")
    EmulatedHead(emulator).run(inputs, "bfloat16", counts=counts)
    passes = ("fwd", "bwd") if case.has_backward else ("fwd",)
    return {name: sum(counts[each][name] for each in passes) for name in counts["fwd"]}


@pytest.mark.parametrize("is_backward", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
def test_attention_works_as_much_as_the_model_thinks(emulated, head_dim, is_causal, is_backward):
    case = Attention(1, 256, HEADS, head_dim, is_causal, is_backward)
    works, count = work_of(case, GPUS["A100"]), counted(emulated, case)
    assert count["launches"] == len(works)
    assert count["mma"] * 2048 == sum(work.multiply_adds for work in works)
    assert count["shared_wavefronts"] * 128 == sum(work.shared_bytes for work in works)
    assert count["global_read_bytes"] == sum(work.l2_bytes for work in works)


@pytest.mark.parametrize(
    "case",
    [Decode(1, 256, 8, 2, 64), Decode(1, 1024, 8, 2, 128), Decode(1, 256, 40, 2, 128), Head(256, 512, 512),
     Head(256, 512, 512, True), Head(32, 512, 512), Head(32, 512, 512, True), Topk(256, 512, 512, 5),
     Topk(32, 512, 512, 5)],
    ids=str,
)  # fmt: skip
def test_others_work_nearly_as_much_as_the_model_thinks(emulated, case):
    """Products are exact. What is left out are statistics of rows, and results on their way through shared memory."""
    works, count = work_of(case, GPUS["A100"]), counted(emulated, case)
    assert count["launches"] == len(works)
    assert count["mma"] * 2048 == sum(work.multiply_adds for work in works)
    assert count["shared_wavefronts"] * 128 == pytest.approx(
        sum(work.shared_bytes for work in works), rel=0.15
    )
    assert count["global_read_bytes"] == pytest.approx(sum(work.l2_bytes for work in works), rel=0.25)
