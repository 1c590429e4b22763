"""Adapted and merged models are exported, and what was exported is proven to be the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_infra import peft
from paddle_infra.export import to_inference, to_onnx
from tests.peft.tiny import MERGEABLE, METHODS, adapted, batch, logits

AXES = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}


def export(write: Any, model: Any, path: Path) -> Any:
    examples = {name: value.numpy() for name, value in batch().items()}
    return write(model, path, examples, dynamic_axes=AXES)


def test_a_lora_model_adapted_and_merged(tmp_path: Path) -> None:
    made = adapted("lora", max_position_embeddings=64)
    expected = logits(made)
    assert export(to_onnx, made, tmp_path / "adapted").verification.max_error < 1e-5
    peft.merge_and_remove(made)
    np.testing.assert_allclose(logits(made), expected, atol=1e-5)
    assert export(to_inference, made, tmp_path / "merged").verification.max_error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("write", [to_inference, to_onnx])
@pytest.mark.parametrize("method", MERGEABLE)
def test_merged_models_are_smaller(write: Any, method: str, tmp_path: Path) -> None:
    made, sizes = adapted(method, max_position_embeddings=64), []
    for state in ("adapted", "merged"):
        assert export(write, made, tmp_path / state).verification.max_error < 1e-5
        sizes.append(sum(file.stat().st_size for file in (tmp_path / state).glob("model.*")))
        if state == "adapted":
            peft.merge_and_remove(made)
    assert sizes[1] < sizes[0]


@pytest.mark.slow
@pytest.mark.parametrize("write", [to_inference, to_onnx])
@pytest.mark.parametrize("method", METHODS)
def test_every_method(write: Any, method: str, tmp_path: Path) -> None:
    assert (
        export(write, adapted(method, max_position_embeddings=64), tmp_path / "export").verification.max_error
        < 1e-5
    )
