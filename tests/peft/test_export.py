"""Adapted and merged models are exported, and what was exported is proven to be the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_infra import peft
from paddle_infra.export import to_inference, to_onnx
from tests.peft.tiny import METHODS, adapted, batch, logits

AXES = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}


def export(write: Any, model: Any, path: Path) -> Any:
    examples = {name: value.numpy() for name, value in batch().items()}
    return write(model, path, examples, dynamic_axes=AXES)


@pytest.mark.parametrize("write", [to_inference, to_onnx])
def test_a_lora_model_adapted_and_merged(write: Any, tmp_path: Path) -> None:
    made = adapted("lora", max_position_embeddings=64)
    expected = logits(made)
    sizes = []
    for state in ("adapted", "merged"):
        report = export(write, made, tmp_path / state)
        assert report.verification.max_error < 1e-5
        sizes.append(
            sum(file.stat().st_size for file in (tmp_path / state).iterdir() if "model" in file.name)
        )
        if state == "adapted":
            peft.merge_and_remove(made)
            np.testing.assert_allclose(logits(made), expected, atol=1e-5)
    assert sizes[1] < sizes[0]


@pytest.mark.slow
@pytest.mark.parametrize("write", [to_inference, to_onnx])
@pytest.mark.parametrize("method", METHODS)
def test_every_method(write: Any, method: str, tmp_path: Path) -> None:
    assert (
        export(write, adapted(method, max_position_embeddings=64), tmp_path / "export").verification.max_error
        < 1e-5
    )
