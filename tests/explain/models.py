"""Small models with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddle_infra.models import BertConfig, BertForSequenceClassification, BertForTokenClassification

PAD, MASK, CLS, SEP = 0, 1, 2, 3


def small_config(**changes: Any) -> BertConfig:
    values: dict[str, Any] = {
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
        "max_position_embeddings": 20, "labels": ("no", "maybe", "yes"), "initializer_range": 0.3,
    }  # fmt: skip
    return BertConfig(**{**values, **changes})


def small_bert(**changes: Any) -> BertForSequenceClassification:
    paddle.seed(3)
    return BertForSequenceClassification(small_config(**changes))


def small_tagger() -> BertForTokenClassification:
    paddle.seed(4)
    return BertForTokenClassification(small_config())


def sentences(padding: int = 0, garbage: int = 7) -> dict[str, np.ndarray]:
    """Two sequences of 8 and 6 tokens with ``[CLS]`` and ``[SEP]``, and more padding, filled with a token."""
    rows = [[CLS, 10, 11, 12, 13, 14, 15, SEP], [CLS, 20, 21, 22, 23, SEP, PAD, PAD]]
    ids = np.array(rows, np.int64)
    mask = (ids != PAD).astype(np.int64)
    ids = np.pad(ids, ((0, 0), (0, padding)), constant_values=garbage)
    return {"input_ids": ids, "attention_mask": np.pad(mask, ((0, 0), (0, padding)))}


class LinearTable(nn.Layer):
    """``W x + embedding of a category``: logits ``[batch, classes]``."""

    def __init__(self) -> None:
        super().__init__()
        paddle.seed(5)
        self.linear = nn.Linear(3, 2)
        self.category = nn.Embedding(4, 2)

    def forward(self, numbers: paddle.Tensor, category: paddle.Tensor) -> paddle.Tensor:
        return self.linear(numbers) + self.category(category)


class Curved(nn.Layer):
    """One logit: ``x₀³ + 2 x₀ x₁``, without ``x₂``."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x[:, 0] ** 3 + 2.0 * x[:, 0] * x[:, 1] + 0.0 * x[:, 2]
