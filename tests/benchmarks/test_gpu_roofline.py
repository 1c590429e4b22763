"""The model that predicts times on a GPU: against counts that the emulated kernels are tested for, and by hand."""

from __future__ import annotations

import pytest

from benchmarks._gpu_roofline import GPUS, Attention, forward_cycles, gpu_of, predict_forward


def test_steps_are_those_that_kernels_are_counted_to_make():
    assert Attention(1, 256, 2, 64, False).steps == 2 * 2 * 4
    assert Attention(1, 256, 2, 64, True).steps == 2 * (2 + 4)
    assert Attention(1, 256, 2, 128, True).steps == 2 * (1 + 2 + 3 + 4)
    assert Attention(3, 70, 1, 128, False).steps == 3 * 2 * 2


def test_operations():
    assert Attention(1, 4, 1, 8, False).operations() == 4 * 4 * 4 * 8
    assert Attention(1, 4, 1, 8, True).operations() == 4 * 10 * 8


def test_tensor_cores_take_what_their_peak_says():
    gpu, case = GPUS["A100"], Attention(8, 4096, 16, 128, False)
    cycles = forward_cycles(case, gpu)["tensor cores"] * case.steps / gpu.multiprocessors
    peak = 2 * gpu.multiply_adds * gpu.multiprocessors * gpu.gigahertz * 1e9
    assert cycles / (gpu.gigahertz * 1e9) == pytest.approx(case.operations() / peak)


def test_a_prediction_is_not_below_any_bound():
    for gpu in GPUS.values():
        for case in (Attention(1, 512, 12, 64, True), Attention(8, 4096, 16, 128, False)):
            predicted = predict_forward(case, gpu)
            assert (
                predicted["seconds"] > predicted["bound"] >= case.bytes_moved / (gpu.memory_gigabytes * 1e9)
            )


def test_names_of_drivers():
    assert gpu_of("NVIDIA A100-SXM4-80GB") == GPUS["A100"]
    assert gpu_of("NVIDIA GeForce RTX 4090") == GPUS["4090"]
    assert gpu_of("another one") is None
