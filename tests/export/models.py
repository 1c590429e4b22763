"""Small real models for the export tests, and ways to plant faults in a finished export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.atomic import sha256_of

VOCABULARY, WIDTH, CLASSES = 50, 8, 3
LABELS = ("low", "middle", "high")
DYNAMIC = {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}}


class MaskedClassifier(nn.Layer):
    """Embedding, masked mean, two linear layers; leaky_relu's slope is a float64 attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.hidden = nn.Linear(WIDTH, 16)
        self.dropout = nn.Dropout(0.5)
        self.output = nn.Linear(16, CLASSES)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        hidden = self.embedding(input_ids)
        weights = paddle.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = weights.astype("float32").unsqueeze(-1)
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        pooled = self.dropout(F.leaky_relu(self.hidden(pooled), 0.2))
        return {"pooled": pooled, "logits": self.output(pooled)}


class Encoder(nn.Layer):
    """One of Paddle's own transformer layers with a padding mask; returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation="gelu")
        self.output = nn.Linear(16, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        bias = (1.0 - attention_mask.astype("float32")).unsqueeze([1, 2]) * -1e4
        hidden = self.layer(self.embedding(input_ids), bias)
        logits = self.output(hidden)
        return logits, logits.argmax(-1)


class FloatAttributes(nn.Layer):
    """Operators whose floating-point attributes paddle2onnx misreads without the fix."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 4, epsilon=0.3)

    def forward(self, image: Tensor) -> Tensor:
        return F.pad(F.leaky_relu(self.norm(image), 0.25), [1, 1, 1, 1], value=0.5)


def seeded(kind: type[nn.Layer]) -> nn.Layer:
    paddle.seed(7)
    return kind()


def token_examples(batch: int = 4, length: int = 9) -> dict[str, np.ndarray]:
    """Right-padded rows of different lengths."""
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (batch, length))
    real = np.array([length, 5, 3, 7])[:batch, None]
    return {"input_ids": ids, "attention_mask": (np.arange(length) < real).astype("int64")}


def reseal(folder: Path) -> None:
    """Make the manifest's hashes fit the changed files: the checks behind the hashes must find the fault."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: sha256_of(folder / name) for name in manifest["files"]}
    path.write_text(json.dumps(manifest))


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def debris(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())
