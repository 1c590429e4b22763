"""Exports of two small models for every engine, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddle_infra import ops
from paddle_infra.export import to_inference, to_onnx
from paddle_infra.models import BertConfig, BertForTokenClassification
from tests.inference.models import AXES, token_inputs


class Upsampler(paddle.nn.Layer):
    """A convolution, then bilinear interpolation: Paddle's oneDNN refuses the latter as the exporter leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = paddle.nn.Conv2D(3, 4, 3, padding=1)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        return F.interpolate(F.relu(self.convolution(image)), scale_factor=2, mode="bilinear")


@pytest.fixture(scope="session")
def tagger() -> paddle.nn.Layer:
    paddle.seed(3)
    config = BertConfig(
        vocab_size=97,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        labels=("O", "B", "I"),
    )
    model = BertForTokenClassification(config)
    model.eval()
    return model


@pytest.fixture(scope="session")
def tagger_exports(tagger: paddle.nn.Layer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``paddle`` with this package's operators, ``onnx``."""
    folder = tmp_path_factory.mktemp("tagger")
    cases = [token_inputs(2, 9), token_inputs(3, 12)]
    for write, name in ((to_inference, "paddle"), (to_onnx, "onnx")):
        write(tagger, folder / name, token_inputs(2, 9), dynamic_axes=AXES, verify_inputs=cases)
    return folder


@pytest.fixture(scope="session")
def plain_export(tagger: paddle.nn.Layer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model of Paddle's own operators, which oneDNN computes."""
    folder = tmp_path_factory.mktemp("plain") / "paddle"
    cases = [token_inputs(2, 9), token_inputs(3, 12)]
    with ops.implementation("reference"):
        to_inference(tagger, folder, token_inputs(2, 9), dynamic_axes=AXES, verify_inputs=cases)
    return folder


@pytest.fixture(scope="session")
def image_exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    paddle.seed(4)
    model = Upsampler()
    folder = tmp_path_factory.mktemp("image")
    images = [np.random.default_rng(n).standard_normal((n, 3, 8, 8)).astype("float32") for n in (2, 3)]
    for write, name in ((to_inference, "paddle"), (to_onnx, "onnx")):
        write(
            model,
            folder / name,
            {"image": images[0]},
            dynamic_axes={"image": {0: "batch"}},
            output_names=["larger"],
            verify_inputs=[{"image": image} for image in images],
        )
    return folder
