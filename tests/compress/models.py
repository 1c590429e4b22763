"""Small models for the tests of compression."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from paddle_infra import nn
from paddle_infra.models import BertForSequenceClassification
from paddle_infra.models.bert_config import BertConfig

VOCABULARY, LABELS = 60, ("low", "middle", "high")
DYNAMIC = {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}}


def bert(**changes: Any) -> BertForSequenceClassification:
    """Four heads of eight, three layers, the same weights every time, in evaluation mode."""
    paddle.seed(3)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "labels": LABELS,
    }
    model = BertForSequenceClassification(BertConfig(**{**sizes, **changes}))
    model.eval()
    return model


def token_examples(batch: int = 4, length: int = 9) -> dict[str, np.ndarray]:
    """Right-padded rows of different lengths."""
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (batch, length))
    real = np.resize([length, 5, 3, 7], batch)[:, None]
    mask = (np.arange(length) < real).astype("int64")
    return {"input_ids": ids * mask, "attention_mask": mask}


def logits_of(model: paddle.nn.Layer, examples: dict[str, np.ndarray]) -> np.ndarray:
    with paddle.no_grad():
        return model(**{name: paddle.to_tensor(value) for name, value in examples.items()}).numpy()


class MixedLinears(paddle.nn.Layer):
    """Paddle's own linear layer, ours with every kind of activation, gates, no bias, and one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = paddle.nn.Linear(12, 16)
        self.gelu = nn.Linear(16, 16, "gelu")
        self.silu = nn.Linear(16, 16, "silu", bias_attr=False)
        self.swiglu = nn.MLP(16, 24, "swiglu")
        self.geglu = nn.MLP(16, 24, "geglu")
        self.again = self.gelu

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.geglu(self.swiglu(self.again(self.silu(self.gelu(self.first(x))))))


def accuracy(predict: Any, data: tuple[dict[str, np.ndarray], np.ndarray]) -> float:
    inputs, labels = data
    return float((predict(inputs)["logits"].argmax(-1) == labels).mean())
