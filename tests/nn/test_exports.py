"""Layers as ONNX and for Paddle Inference, also one step of decoding: exported and verified at several sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra import export
from tests.nn.reference import array, randomize
from tests.nn.test_programs import DIM, MODELS, Step, batch, make

pytestmark = pytest.mark.slow
TARGETS = {"inference": export.to_inference, "onnx": export.to_onnx}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, target: str, tmp_path: Path) -> None:
    if target == "onnx":
        pytest.importorskip("paddle2onnx")
    model = make(name)
    model.eval()
    ids, mask = batch(2, 7)
    axes = {0: "batch", 1: "length"}
    report = TARGETS[target](
        model,
        tmp_path / "exported",
        {"ids": ids.numpy(), "mask": mask.numpy()},
        dynamic_axes={"ids": axes, "mask": axes, "states": axes},
        output_names=("states",),
    )
    assert len(report.verification.cases) >= 3
    assert report.verification.max_error < 1e-4


def step_inputs(batch_size: int, capacity: int, memory_len: int) -> dict[str, np.ndarray]:
    own, of_memory = (2, batch_size, capacity, 2, DIM), (2, batch_size, memory_len, 2, DIM)
    return {
        "ids": np.arange(batch_size)[:, None] % 9,
        "keys": array(*own),
        "values": array(*own, seed=1),
        "lengths": (np.arange(batch_size) + 2).astype("int32"),
        "memory_keys": array(*of_memory, seed=2),
        "memory_values": array(*of_memory, seed=3),
    }


@pytest.mark.parametrize("target", TARGETS)
def test_a_step_of_decoding(target: str, tmp_path: Path) -> None:
    if target == "onnx":
        pytest.importorskip("paddle2onnx")
    paddle.seed(0)
    model = randomize(Step())
    model.eval()
    of_tokens, of_memory = {1: "batch", 2: "capacity"}, {1: "batch", 2: "memory"}
    report = TARGETS[target](
        model,
        tmp_path / "exported",
        step_inputs(2, 9, 5),
        output_names=("hidden", "new_keys", "new_values", "new_lengths"),
        dynamic_axes={
            **{name: {0: "batch"} for name in ("ids", "lengths", "hidden", "new_lengths")},
            **dict.fromkeys(("keys", "values", "new_keys", "new_values"), of_tokens),
            **dict.fromkeys(("memory_keys", "memory_values"), of_memory),
        },
        verify_inputs=[step_inputs(2, 9, 5), step_inputs(1, 12, 3), step_inputs(4, 30, 20)],
    )
    assert len(report.verification.cases) >= 3
    assert report.verification.max_error < 1e-4
