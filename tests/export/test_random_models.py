"""Random models of the library's layers: whatever is exported without an error gives the model's numbers.

What an export gives is compared here once more without the package's own comparison: other inputs and sizes, the engine
called by hand, the model in float64.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import Tensor, nn

import paddle_infra as pi
from paddle_infra._core.errors import ExportError, UnsupportedError
from paddle_infra.export import load_predictor, to_inference, to_onnx
from tests.export.in_process import worker_in_process
from tests.export.models import DYNAMIC, token_examples
from tests.export.small_models import spread

WIDTH, VOCABULARY = 8, 50
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")


def _encoder(**options: Any) -> nn.Layer:
    return pi.nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.0, attention_dropout=0.0, **options)


BLOCKS = {
    "linear": lambda activation, flag: pi.nn.Linear(WIDTH, WIDTH, activation),
    "mlp": lambda activation, flag: pi.nn.MLP(WIDTH, 12, "swiglu" if flag else "gelu"),
    "norm": lambda activation, flag: pi.nn.RMSNorm(WIDTH) if flag else nn.LayerNorm(WIDTH),
    "encoder": lambda activation, flag: _encoder(norm_first=flag),
    "encoder, rms": lambda activation, flag: _encoder(norm_first=flag, norm="rms"),
    "convolution": lambda activation, flag: pi.nn.ConvBlock1D(WIDTH, WIDTH, 3, causal=flag),
    "separable": lambda activation, flag: pi.nn.SeparableConv1D(WIDTH, WIDTH, 3, norm="layer"),
    "lstm": lambda activation, flag: pi.nn.LSTM(WIDTH, WIDTH // (1 + flag), bidirectional=flag),
    "gru": lambda activation, flag: pi.nn.GRU(WIDTH, WIDTH // (1 + flag), bidirectional=flag),
}
POOLINGS = ("none", "cls", "mean", "max", "last", "attention")
IMAGE_BLOCKS = {
    "convolution": lambda activation, flag: pi.nn.ConvBlock2D(WIDTH, WIDTH, 3, activation=activation),
    "separable": lambda activation, flag: pi.nn.SeparableConv2D(WIDTH, WIDTH, 3, stride=1 + flag),
    "residual": lambda activation, flag: pi.nn.ResidualBlock2D(WIDTH, WIDTH, stride=1 + flag),
    "bottleneck": lambda activation, flag: pi.nn.BottleneckBlock2D(WIDTH, WIDTH // 4, stride=1 + flag),
}


class TextModel(nn.Layer):
    """Tokens through any blocks, pooled or not, to three classes."""

    def __init__(self, kinds: list[tuple[str, str, bool]], pooling: str) -> None:
        super().__init__()
        self.embedding = pi.nn.TokenEmbedding(
            VOCABULARY, WIDTH, positions=pi.nn.SinusoidalPositions(WIDTH, 70)
        )
        self.kinds = [kind for kind, _, _ in kinds]
        self.blocks = nn.LayerList([BLOCKS[kind](activation, flag) for kind, activation, flag in kinds])
        self.pooling = None
        if pooling == "attention":
            self.pooling = pi.nn.AttentionPooling(WIDTH)
        elif pooling != "none":
            self.pooling = pi.nn.Pooling(pooling)
        self.head = pi.nn.TokenClassificationHead(WIDTH, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.embedding(input_ids) * attention_mask.astype("float32").unsqueeze(-1)
        lengths = attention_mask.sum(-1)
        for index, block in enumerate(self.blocks):
            kind = self.kinds[index]
            if kind in ("lstm", "gru"):
                hidden, _ = block(hidden, lengths)
            elif "encoder" in kind:
                hidden = block(hidden, kv_lengths=lengths)
            elif kind in ("convolution", "separable"):
                hidden = block(hidden, attention_mask)
            else:
                hidden = block(hidden)
        return self.head(hidden if self.pooling is None else self.pooling(hidden, attention_mask))


class ImageModel(nn.Layer):
    """Images through any blocks, their mean to three classes."""

    def __init__(self, kinds: list[tuple[str, str, bool]]) -> None:
        super().__init__()
        self.stem = pi.nn.ConvBlock2D(3, WIDTH, 3)
        self.blocks = nn.Sequential(
            *(IMAGE_BLOCKS[kind](activation, flag) for kind, activation, flag in kinds)
        )
        self.head = pi.nn.SequenceClassificationHead(WIDTH, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(image)).mean([2, 3]))


def _blocks(kinds: dict[str, Any], activations: tuple[str, ...]) -> st.SearchStrategy[Any]:
    block = st.tuples(st.sampled_from(sorted(kinds)), st.sampled_from(activations), st.booleans())
    return st.lists(block, min_size=1, max_size=3)


TEXT = st.builds(
    lambda kinds, pooling: ("text", kinds, pooling), _blocks(BLOCKS, ACTIVATIONS), st.sampled_from(POOLINGS)
)
IMAGES = st.builds(lambda kinds: ("image", kinds, ""), _blocks(IMAGE_BLOCKS, ("relu", "gelu", "none")))
TARGETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "fused": (to_inference, {}),
    "standard": (to_inference, {"ops": "standard"}),
    "decomposed": (to_onnx, {"converter": "native"}),
    "contrib": (to_onnx, {"converter": "native", "attention": "contrib", "opset": 20}),
}


def _inputs(kind: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if kind == "image":
        return {"image": rng.normal(size=(5, 3, 9, 9)).astype("float32")}
    lengths = rng.integers(1, 12, (3, 1))
    return {
        "input_ids": rng.integers(0, VOCABULARY, (3, 11)),
        "attention_mask": (np.arange(11) < lengths).astype("int64"),
    }


def _exact(model: nn.Layer, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The model in float64, on Paddle's own operators."""
    wide = copy.deepcopy(model)
    wide.to(dtype="float64")
    wide.eval()
    paddle.set_default_dtype("float64")
    try:
        with pi.ops.implementation("reference"), paddle.no_grad():
            tensors = [
                paddle.to_tensor(a.astype("float64") if a.dtype == "float32" else a) for a in inputs.values()
            ]
            return wide(*tensors).numpy()
    finally:
        paddle.set_default_dtype("float32")


def check(drawn: tuple[str, list[tuple[str, str, bool]], str], target: str, seed: int) -> bool:
    """Export, and compare by other means; return whether there was an export."""
    kind, kinds, pooling = drawn
    paddle.seed(seed)
    model = spread(TextModel(kinds, pooling) if kind == "text" else ImageModel(kinds), seed)
    examples = (
        token_examples()
        if kind == "text"
        else {"image": _inputs(kind, np.random.default_rng(1))["image"][:2]}
    )
    axes = DYNAMIC if kind == "text" else {"image": {0: "batch"}}
    exporter, options = TARGETS[target]
    folder = Path(tempfile.mkdtemp())
    try:
        report = exporter(model, folder / "export", examples, dynamic_axes=axes, **options)
    except (ExportError, UnsupportedError):
        assert not (folder / "export").exists()
        return False
    else:
        inputs = _inputs(kind, np.random.default_rng(seed))
        got = load_predictor(report.path)(inputs)["logits"]
        exact = _exact(model, inputs)
        with paddle.no_grad():
            own = model(*map(paddle.to_tensor, inputs.values())).numpy()
        assert got.dtype == np.float32
        assert got.shape == exact.shape
        # The model's own rounding, and what was allowed when it was verified.
        assert np.abs(got - exact).max() <= np.abs(own - exact).max() + 1e-4
        return True
    finally:
        shutil.rmtree(folder)


def run(count: int) -> None:
    outcomes = []

    @settings(max_examples=count, derandomize=True, database=None, deadline=None)
    @given(st.one_of(TEXT, IMAGES), st.sampled_from(sorted(TARGETS)), st.integers(0, 2**20))
    def one(drawn: Any, target: str, seed: int) -> None:
        outcomes.append(check(drawn, target, seed))

    with worker_in_process():
        one()
    assert len(outcomes) >= count
    assert sum(outcomes) >= 0.9 * len(outcomes), "nearly all must be exported: refusals prove nothing"


def test_random_models() -> None:
    run(25)


@pytest.mark.slow
def test_many_random_models() -> None:
    run(300)
