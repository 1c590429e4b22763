"""The model that predicts times on a GPU, by hand; tests/gpu/test_gpu_bench.py has it against what kernels count."""

from __future__ import annotations

import pytest

from benchmarks._gpu_cases import CASES, TINY, Attention, Decode, Head, Topk
from benchmarks._gpu_peaks import GPUS, gpu_of
from benchmarks._gpu_roofline import LAUNCH_SECONDS, OVERHEAD, predict, unit_seconds
from benchmarks._gpu_work import Work, forward_steps, work_of

A100 = GPUS["A100"]


def test_operations_and_bytes():
    assert Attention(1, 4, 1, 8, False).operations == 4 * 4 * 4 * 8
    assert Attention(1, 4, 1, 8, True).operations == 4 * 10 * 8
    assert Attention(1, 4, 1, 8, False, True).operations == 10 * 4 * 4 * 8
    assert Attention(2, 4, 3, 8, True).bytes_moved == 4 * 2 * (2 * 4 * 3 * 8)
    assert Decode(2, 10, 4, 2, 8).operations == 4 * 2 * 4 * 10 * 8
    assert Decode(2, 10, 4, 2, 8).bytes_moved == 2 * 2 * 8 * (2 * 10 * 2 + 2 * 4)
    assert Head(3, 4, 5).operations == 2 * 3 * 4 * 5
    assert Head(3, 4, 5, True).operations == 6 * 3 * 4 * 5
    assert Topk(3, 4, 5, 2).bytes_moved == 2 * 4 * (3 + 5)


def test_steps_of_a_causal_mask():
    assert forward_steps(Attention(1, 256, 2, 64, False), 128, 64) == 2 * 2 * 4
    assert forward_steps(Attention(1, 256, 2, 64, True), 128, 64) == 2 * (2 + 4)
    assert forward_steps(Attention(1, 256, 2, 128, True), 64, 64) == 2 * (1 + 2 + 3 + 4)
    assert forward_steps(Attention(3, 70, 1, 128, False), 64, 64) == 3 * 2 * 2


def test_seconds_of_units():
    """A GPU of 2 multiprocessors at 1 GHz."""
    gpu = A100._replace(multiprocessors=2, gigahertz=1.0, multiply_adds=1000, memory_gigabytes=10.0)
    work = Work(4, 6e6, 3.2e3, 12.8e3, 25.6e3, 51.2e3, 1e6)
    busy = unit_seconds(work, gpu)
    assert busy == pytest.approx(
        {"tensor cores": 3e-6, "exponentials": 1e-7, "float operations": 1e-7, "shared memory": 1e-7,
         "L2 cache": 1e-8, "memory": 1e-4}
    )  # fmt: skip


def test_a_product_of_whole_tiles():
    """2 x 4 tiles of 128 x 128, two steps of 64; a step copies 2 x 128 x 64 numbers, eight warps read 96 x 64 each."""
    work = work_of(Topk(256, 128, 512, 1), A100)[0]
    assert work.blocks == 8
    assert work.multiply_adds == 256 * 128 * 512
    assert work.l2_bytes == 8 * 2 * 2 * 256 * 64
    assert work.shared_bytes == 8 * 2 * (2 * 256 * 64 + 8 * 2 * 96 * 64)


def test_predictions_by_hand():
    """A cache of 33.5 MB at 2039 GB/s: 128 blocks and splits for 108 multiprocessors; two launches."""
    found = predict(Decode(1, 8192, 32, 8, 128), A100)
    cache = 4 * 128 * (8192 * 8 + 32)
    partial = 4.0 * 32 * 32 * 128  # float32 sums of 32 splits
    assert found.unit == "memory"
    assert found.bound == pytest.approx((cache + partial) / 2039e9, rel=0.05)
    assert found.seconds == pytest.approx(OVERHEAD * found.bound + 2 * LAUNCH_SECONDS, rel=0.05)
    # 8192 x 4096 x 128256 multiply-adds, of 108 x 1024 per cycle; waves are many, other launches short.
    found = predict(Head(8192, 4096, 128256), A100)
    seconds = 8192 * 4096 * 128256 / (108 * 1024 * 1.41e9)
    assert found.seconds == pytest.approx(OVERHEAD * seconds + 4 * LAUNCH_SECONDS)


def test_the_last_wave_counts():
    """109 blocks for 108 multiprocessors take as long as 216."""
    gpu = A100._replace(memory_gigabytes=1e6, l2_bytes=10**9)  # not in the way
    short, full = (predict(Attention(1, 128, blocks, 64, False), gpu).seconds for blocks in (109, 216))
    assert short == pytest.approx(full)


@pytest.mark.parametrize("case", [*CASES, *TINY], ids=str)
def test_a_prediction_is_not_below_any_bound(case):
    for gpu in GPUS.values():
        found = predict(case, gpu)
        assert found.seconds > found.bound >= 0.999 * case.bytes_moved / (gpu.memory_gigabytes * 1e9)
        assert found.seconds > case.operations / (gpu.peak_teraflops * 1e12)
        assert found.unit in (*unit_seconds(Work(1), gpu), "launch")


def test_peaks_are_those_that_are_published():
    """mma.sync is the fastest path of sm_80 and sm_89; of later ones it is less than the published figure."""
    for name, gpu in GPUS.items():
        own = 2e-3 * gpu.multiply_adds * gpu.multiprocessors * gpu.gigahertz
        if name in ("A100", "L40S", "4090"):
            assert own == pytest.approx(gpu.peak_teraflops, rel=0.02)
        else:
            assert own < 0.65 * gpu.peak_teraflops


def test_names_of_drivers():
    assert gpu_of("NVIDIA A100-SXM4-80GB") == GPUS["A100"]
    assert gpu_of("NVIDIA GeForce RTX 4090") == GPUS["4090"]
    assert gpu_of("NVIDIA H100 80GB HBM3") == GPUS["H100"]
    assert gpu_of("another one") is None
