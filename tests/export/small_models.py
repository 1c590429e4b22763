"""Small models of every family for planted faults, the property test and the table, with inputs and dynamic axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import paddle
from paddle import Tensor, nn

import paddle_infra as pi
from tests.export.models import DYNAMIC, token_examples

TEXT = {name: DYNAMIC[name] for name in ("input_ids", "attention_mask")}
IMAGE_AXES = {"image": {0: "batch"}}


@dataclass(frozen=True)
class Small:
    """How to make a model in evaluation mode, its example inputs, dynamic axes and the names of its outputs."""

    make: Callable[[], nn.Layer]
    inputs: Mapping[str, np.ndarray]
    axes: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...] = ("logits",)
    verify: list[dict[str, np.ndarray]] | None = field(default=None)


def bert(task: type[nn.Layer] = pi.models.BertForSequenceClassification) -> nn.Layer:
    config = pi.models.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        labels=("low", "middle", "high"),
    )
    return spread(task(config))


class TextCnn(nn.Layer):
    """Embedding, a block of convolutions, the largest of every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.block = nn.Conv1D(8, 12, 3, padding=1)
        self.output = pi.nn.Linear(12, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.embedding(input_ids) * attention_mask.astype("float32").unsqueeze(-1)
        hidden = nn.functional.relu(self.block(hidden.transpose([0, 2, 1])))
        return self.output(pi.nn.max_pool(hidden.transpose([0, 2, 1]), attention_mask))


class ResNet(nn.Layer):
    """A convolution, two residual blocks, the mean of every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = pi.nn.ConvBlock2D(3, 8, 3)
        self.blocks = nn.Sequential(pi.nn.ResidualBlock2D(8, 8), pi.nn.ResidualBlock2D(8, 12, stride=2))
        self.output = pi.nn.Linear(12, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.output(self.blocks(self.stem(image)).mean([2, 3]))


class LstmTagger(nn.Layer):
    """Embedding, a bidirectional LSTM over the real tokens, a class for each."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.network = pi.nn.LSTM(8, 6, bidirectional=True)
        self.output = pi.nn.Linear(12, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden, _ = self.network(self.embedding(input_ids), attention_mask.sum(-1))
        return self.output(hidden)


class TwoTowers(nn.Layer):
    """Two inputs of one form that are treated differently, and two outputs of one form."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (pi.nn.MLP(6, 8, output_size=4) for _ in range(2))

    def forward(self, query: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.left(query), self.right(item)
        return left, nn.functional.softmax(left * right, -1)


def spread(model: nn.Layer, seed: int = 1) -> nn.Layer:
    """Give every parameter and running statistic values that matter: zeros and ones would hide faults."""
    generator = np.random.default_rng(seed)
    for name, tensor in model.state_dict().items():
        noise = generator.normal(0.0, 0.3, tensor.shape).astype("float32")
        if "variance" in name or name.endswith("std"):
            tensor.set_value(np.abs(noise) + 0.5)
        elif "float" in str(tensor.dtype):
            center = 1.0 if len(tensor.shape) == 1 and "weight" in name else 0.0
            tensor.set_value(noise + center)
    model.eval()
    return model


def rows(name: str, *shape: int) -> dict[str, np.ndarray]:
    return {name: np.random.default_rng(5).normal(size=shape).astype("float32")}


SMALL: dict[str, Small] = {
    "bert": Small(bert, token_examples(), TEXT),
    "tagger": Small(lambda: bert(pi.models.BertForTokenClassification), token_examples(), TEXT),
    "text cnn": Small(lambda: spread(TextCnn()), token_examples(), TEXT),
    "resnet": Small(lambda: spread(ResNet()), rows("image", 2, 3, 8, 8), IMAGE_AXES),
    "lstm tagger": Small(lambda: spread(LstmTagger()), token_examples(), TEXT),
    "two towers": Small(
        lambda: spread(TwoTowers()),
        {**rows("query", 3, 6), "item": rows("item", 3, 6)["item"][:, ::-1].copy()},
        {"query": {0: "batch"}, "item": {0: "batch"}},
        ("left", "chances"),
    ),
}


def made(name: str) -> nn.Layer:
    paddle.seed(11)
    return SMALL[name].make()
