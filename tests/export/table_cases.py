"""Every layer and model of the package with inputs to export it with; and why some are not exported by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from paddle import Tensor, nn

import paddle_infra as pi
from tests.export.small_models import bert, spread

generator = np.random.default_rng(3)


def floats(*shape: int) -> np.ndarray:
    return generator.normal(size=shape).astype("float32")


def ids(high: int, *shape: int) -> np.ndarray:
    return generator.integers(0, high, shape)


@dataclass(frozen=True)
class Row:
    """How to make a layer, its inputs, the letters of their dynamic axes (``bt-``), and how many outputs it has."""

    make: Callable[[], nn.Layer]
    inputs: Mapping[str, np.ndarray]
    axes: Mapping[str, str] = field(default_factory=dict)
    outputs: int = 1

    @property
    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        letters = {name: self.axes.get(name, "b") for name in self.inputs}
        return {name: {i: a for i, a in enumerate(text) if a != "-"} for name, text in letters.items()}

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(f"output_{index}" for index in range(self.outputs))


class Joined(nn.Layer):
    """A fusion, whose inputs have no names."""

    def __init__(self, layer: nn.Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return (
            self.layer(left, right)
            if isinstance(self.layer, pi.nn.BilinearFusion)
            else self.layer([left, right])
        )


class Flat(nn.Layer):
    """A recurrent layer, with its states beside its output."""

    def __init__(self, layer: nn.Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        output, states = self.layer(hidden, lengths)
        return (output, *states)


class Towers(nn.Layer):
    """The two towers with their columns as inputs."""

    def __init__(self, model: nn.Layer) -> None:
        super().__init__()
        self.model = model

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.model({"categories": user}, {"categories": item})


HIDDEN = {"hidden": floats(3, 5, 8)}
MASK = {"attention_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])}
LENGTHS = {"lengths": np.array([5, 2, 4])}
MEMORY = {"memory": floats(3, 4, 8)}
IMAGE = {"image": floats(2, 4, 9, 9)}
TOKENS = {"input_ids": ids(20, 3, 5)}
BT = {"hidden": "bt", "attention_mask": "bt", "input_ids": "bt", "positions": "t", "x": "bt", "memory": "bm"}
FLAT = {"hidden": floats(3, 8)}
PIXELS = {"pixel_values": floats(2, 3, 12, 12)}


def plain(make: Callable[[], nn.Layer], inputs: Mapping[str, np.ndarray], outputs: int = 1) -> Row:
    axes = {name: BT[name] for name in inputs if name in BT and inputs[name].shape != (3, 8)}
    return Row(lambda: spread(make()), inputs, axes, outputs)


def image(make: Callable[[], nn.Layer]) -> Row:
    return Row(lambda: spread(make()), IMAGE, {"image": "b"})


def language(task: type[nn.Layer], outputs: int = 1) -> Row:
    inputs = {"input_ids": ids(50, 3, 5), **MASK}
    return Row(lambda: bert(task), inputs, BT, outputs)


def recurrent(kind: type[nn.Layer], states: int) -> Row:
    return plain(
        lambda: Flat(kind(8, 6, num_layers=2, bidirectional=True)), {**HIDDEN, **LENGTHS}, 1 + states
    )


def joined(make: Callable[[], nn.Layer]) -> Row:
    return Row(lambda: spread(Joined(make())), {"left": floats(3, 8), "right": floats(3, 6)})


def block(kind: type[nn.Layer], *sizes: int, **options: object) -> Callable[[], nn.Layer]:
    return lambda: kind(*sizes, 8, 2, 12, dropout=0.0, attention_dropout=0.0, **options)


LAYERS: dict[str, Row] = {
    "AttentionPooling": plain(lambda: pi.nn.AttentionPooling(8), {**HIDDEN, **MASK}),
    "BagEmbedding": Row(
        lambda: spread(pi.nn.BagEmbedding([6, 4], 5)), {"ids": ids(4, 3, 2, 3), "lengths": ids(4, 3, 2)}
    ),
    "BilinearFusion": joined(lambda: pi.nn.BilinearFusion((8, 6), 5)),
    "BottleneckBlock2D": image(lambda: pi.nn.BottleneckBlock2D(4, 3, stride=2)),
    "CRF": plain(lambda: pi.nn.CRF(8), {"emissions": floats(3, 5, 8), **LENGTHS}),
    "CategoryEmbedding": Row(lambda: spread(pi.nn.CategoryEmbedding([4, 6], 5)), {"ids": ids(4, 3, 2)}),
    "ConcatFusion": joined(lambda: pi.nn.ConcatFusion([8, 6], 5)),
    "ConvBlock1D": plain(lambda: pi.nn.ConvBlock1D(8, 6, 3, norm="layer"), {**HIDDEN, **MASK}),
    "ConvBlock2D": image(lambda: pi.nn.ConvBlock2D(4, 6, 3, stride=2)),
    "CrossAttentionFusion": plain(lambda: pi.nn.CrossAttentionFusion(8, 8, 2), {**HIDDEN, **MEMORY}),
    "DenseStack": plain(lambda: pi.nn.DenseStack(8, [6, 4], "dice"), {"x": floats(3, 8)}),
    "Dice": plain(lambda: pi.nn.Dice(8), {"x": floats(3, 8)}),
    "DropPath": plain(
        lambda: nn.Sequential(pi.nn.DropPath(0.3), pi.nn.Linear(8, 8)), {"input": floats(3, 8)}
    ),
    "FocalClassificationHead": plain(lambda: pi.nn.FocalClassificationHead(8, 3), FLAT),
    "GRU": recurrent(pi.nn.GRU, 1),
    "GatedFusion": joined(lambda: pi.nn.GatedFusion([8, 6], 5)),
    "LSTM": recurrent(pi.nn.LSTM, 2),
    "LearnedPositions": plain(lambda: pi.nn.LearnedPositions(70, 8), {"positions": np.arange(5)}),
    "Linear": plain(lambda: pi.nn.Linear(8, 6, "gelu"), {"x": floats(3, 5, 8)}),
    "MLP": plain(lambda: pi.nn.MLP(8, 12, "swiglu"), {"x": floats(3, 5, 8)}),
    "MarginHead": plain(lambda: pi.nn.MarginHead(8, 5), FLAT),
    "MultiHeadAttention": plain(
        lambda: pi.nn.MultiHeadAttention(8, 4, num_kv_heads=2), {**HIDDEN, "kv_lengths": np.array([5, 2, 4])}
    ),
    "MultiLabelHead": plain(lambda: pi.nn.MultiLabelHead(8, 3), FLAT),
    "NumberScaling": plain(lambda: pi.nn.NumberScaling(4), {"numbers": floats(3, 4)}, 2),
    "OrdinalHead": plain(lambda: pi.nn.OrdinalHead(8, 4), FLAT),
    "Pooling": plain(lambda: pi.nn.Pooling("mean"), {**HIDDEN, **MASK}),
    "RMSNorm": plain(lambda: pi.nn.RMSNorm(8), {"x": floats(3, 5, 8)}),
    "RNN": recurrent(pi.nn.RNN, 1),
    "RegressionHead": plain(lambda: pi.nn.RegressionHead(8, 2), FLAT),
    "ResidualBlock2D": image(lambda: pi.nn.ResidualBlock2D(4, 6, stride=2)),
    "RotaryEmbedding": plain(lambda: pi.nn.RotaryEmbedding(8, 70), {"x": floats(3, 5, 2, 8)}),
    "SeparableConv1D": plain(lambda: pi.nn.SeparableConv1D(8, 6, 3), {**HIDDEN, **MASK}),
    "SeparableConv2D": image(lambda: pi.nn.SeparableConv2D(4, 6, 3)),
    "SequenceClassificationHead": plain(lambda: pi.nn.SequenceClassificationHead(8, 3), FLAT),
    "SinusoidalPositions": plain(lambda: pi.nn.SinusoidalPositions(8, 70), {"positions": np.arange(5)}),
    "SpanHead": plain(lambda: pi.nn.SpanHead(8), HIDDEN),
    "TableFeatures": Row(
        lambda: spread(pi.nn.TableFeatures([4, 6], 3, width=5)),
        {"categories": ids(4, 3, 2), "numbers": floats(3, 3)},
    ),
    "TokenClassificationHead": plain(lambda: pi.nn.TokenClassificationHead(8, 3), HIDDEN),
    "TokenEmbedding": plain(
        lambda: pi.nn.TokenEmbedding(20, 8, positions=pi.nn.SinusoidalPositions(8, 70)), TOKENS
    ),
    "TransformerDecoder": plain(block(pi.nn.TransformerDecoder, 2), {**HIDDEN, **MEMORY}),
    "TransformerDecoderLayer": plain(
        block(pi.nn.TransformerDecoderLayer, norm="rms", norm_first=True), {**HIDDEN, **MEMORY}
    ),
    "TransformerEmbedding": plain(lambda: pi.nn.TransformerEmbedding(20, 8, 70, 2), TOKENS),
    "TransformerEncoder": plain(
        block(pi.nn.TransformerEncoder, 2), {**HIDDEN, "kv_lengths": np.array([5, 2, 4])}
    ),
    "TransformerEncoderLayer": plain(block(pi.nn.TransformerEncoderLayer, norm_first=True), HIDDEN),
}

_TRAINING = "a loss of training: nothing to export"
_BASE = "a base of models"
NOT_EXPORTED: dict[str, str] = {
    **dict.fromkeys(
        ("BatchHardTripletLoss", "CoSENTLoss", "ContrastiveLoss", "CosineEmbeddingLoss"), _TRAINING
    ),
    **dict.fromkeys(("SupervisedContrastiveLoss", "TripletLoss"), _TRAINING),
    **dict.fromkeys(("PretrainedModel", "TableModel"), _BASE),
}
