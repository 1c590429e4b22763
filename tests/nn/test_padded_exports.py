"""Layers and models that see padding, as Paddle Inference and ONNX files that are verified in two sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra import export, models, nn

pytestmark = pytest.mark.slow

MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
HIDDEN = np.random.default_rng(0).standard_normal((3, 6, 5)).astype("float32")
IDS = np.random.default_rng(0).integers(0, 20, (3, 6))


class Masked(paddle.nn.Layer):
    """A layer of hidden states and a mask behind a linear one."""

    def __init__(self, layer: paddle.nn.Layer) -> None:
        super().__init__()
        self.projection, self.layer = paddle.nn.Linear(5, 5), layer

    def forward(self, hidden: paddle.Tensor, attention_mask: paddle.Tensor) -> paddle.Tensor:
        return self.layer(self.projection(hidden), attention_mask)


class Recurrent(Masked):
    def forward(
        self, hidden: paddle.Tensor, attention_mask: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        output, states = self.layer(self.projection(hidden), attention_mask.sum(axis=1))
        return output, states[0]


class Full(Masked):
    def forward(
        self, hidden: paddle.Tensor, attention_mask: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        output, states = self.layer(self.projection(hidden))
        return output * attention_mask.astype("float32").unsqueeze(-1), states[0]


class Decoder(paddle.nn.Layer):
    def __init__(self, model: models.BiLSTMCRF) -> None:
        super().__init__()
        self.model = model

    def forward(self, words: paddle.Tensor, attention_mask: paddle.Tensor) -> paddle.Tensor:
        return self.model.decode(words, attention_mask)[0]


def tagger() -> models.BiLSTMCRF:
    labels = ("O", "B-X", "I-X")
    config = models.BiLSTMCRFConfig(
        vocab_size=20, embedding_size=6, hidden_size=7, labels=labels, scheme="iob2"
    )
    return models.BiLSTMCRF(config)


def text_cnn() -> models.TextCNN:
    return models.TextCNN(
        models.TextCNNConfig(vocab_size=20, embedding_size=6, num_filters=4, labels=("a", "b"))
    )


CASES: dict[str, tuple[Callable[[], paddle.nn.Layer], str, tuple[str, ...]]] = {
    "convolution": (lambda: Masked(nn.ConvBlock1D(5, 6, 3, norm="layer")), "hidden", ("y",)),
    "separable": (lambda: Masked(nn.SeparableConv1D(5, 6, 3, causal=True)), "hidden", ("y",)),
    "last": (lambda: Masked(nn.Pooling("last")), "hidden", ("y",)),
    "max": (lambda: Masked(nn.Pooling("max")), "hidden", ("y",)),
    "attention": (lambda: Masked(nn.AttentionPooling(5)), "hidden", ("y",)),
    "lstm": (
        lambda: Recurrent(nn.LSTM(5, 4, num_layers=2, bidirectional=True)),
        "hidden",
        ("output", "h"),
    ),
    "gru": (lambda: Recurrent(nn.GRU(5, 4, bidirectional=True)), "hidden", ("output", "h")),
    "full": (lambda: Full(nn.LSTM(5, 4, bidirectional=True)), "hidden", ("output", "h")),
    "text_cnn": (text_cnn, "input_ids", ("logits",)),
    "tagger": (tagger, "words", ("emissions",)),
    "decoder": (lambda: Decoder(tagger()), "words", ("tags",)),
}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("to", ["inference", "onnx"])
def test_exports_are_the_model(to: str, kind: str, tmp_path: Path) -> None:
    if (to, kind) == ("onnx", "decoder"):
        pytest.skip("paddle2onnx makes an invalid graph of the loop")
    paddle.seed(0)
    make, name, outputs = CASES[kind]
    values = HIDDEN if name == "hidden" else IDS
    axes = {0: "batch", 1: "length"}
    inputs = {name: values, "attention_mask": MASK}
    model = make()
    model.eval()
    (export.to_onnx if to == "onnx" else export.to_inference)(
        model,
        tmp_path / "export",
        inputs,
        dynamic_axes=dict.fromkeys(inputs, axes),
        output_names=outputs,
        verify_inputs=[inputs, {key: value[1:, :4] for key, value in inputs.items()}],
    )
