"""Inputs of the test models, and which engines are here."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

AXES = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
PADS = {"input_ids": 0, "attention_mask": 0}
ENGINES = [
    "paddle",
    "onnxruntime",
    pytest.param(
        "openvino",
        marks=pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs OpenVINO"),
    ),
]


def token_inputs(batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Right-padded rows of different lengths."""
    rng = np.random.default_rng(seed)
    real = rng.integers(1, length + 1, (batch, 1))
    return {
        "input_ids": rng.integers(0, 97, (batch, length)),
        "attention_mask": (np.arange(length) < real).astype("int64"),
    }
