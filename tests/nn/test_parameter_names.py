"""Names and shapes of parameters are what checkpoints hold: they do not change."""

from __future__ import annotations

import pytest

from paddle_infra import nn


def linear(name: str, rows: int, columns: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [rows, columns], f"{name}.bias": [columns]}


def norm(name: str, size: int = 8) -> dict[str, list[int]]:
    return {f"{name}.weight": [size], f"{name}.bias": [size]}


def attention(name: str = "", memory: int = 8, kv: int = 8) -> dict[str, list[int]]:
    parts = {"query": (8, 8), "key": (memory, kv), "value": (memory, kv), "output": (8, 8)}
    return {key: size for part, sizes in parts.items() for key, size in linear(name + part, *sizes).items()}


ENCODER = {
    **attention("attention."),
    **norm("attention_norm"),
    **linear("intermediate", 8, 12),
    **linear("output", 12, 8),
    **norm("output_norm"),
}
DECODER = {
    **attention("attention."),
    **norm("attention_norm"),
    **attention("cross_attention.", memory=6),
    **norm("cross_attention_norm"),
    **linear("intermediate", 8, 12),
    **linear("output", 12, 8),
    **norm("output_norm"),
}
GATED = {
    "attention.query.weight": [8, 8],
    "attention.key.weight": [8, 4],
    "attention.value.weight": [8, 4],
    "attention.output.weight": [8, 8],
    "attention_norm.weight": [8],
    "intermediate.weight": [8, 24],
    "output.weight": [12, 8],
    "output_norm.weight": [8],
}
ROTARY = nn.RotaryEmbedding(4, 9)
LAYERS = {
    "MultiHeadAttention": (lambda: nn.MultiHeadAttention(8, 2, alibi=True), attention()),
    "grouped": (
        lambda: nn.MultiHeadAttention(8, 2, num_kv_heads=1, memory_size=6),
        attention(memory=6, kv=4),
    ),
    "MLP": (lambda: nn.MLP(8, 12), {**linear("intermediate", 8, 12), **linear("output", 12, 8)}),
    "RMSNorm": (lambda: nn.RMSNorm(8), {"weight": [8]}),
    "DropPath": (lambda: nn.DropPath(0.1), {}),
    "RotaryEmbedding": (lambda: nn.RotaryEmbedding(4, 9), {}),
    "SinusoidalPositions": (lambda: nn.SinusoidalPositions(8, 9), {}),
    "LearnedPositions": (lambda: nn.LearnedPositions(9, 8, offset=2), {"weight": [11, 8]}),
    "TokenEmbedding": (
        lambda: nn.TokenEmbedding(5, 8, positions=nn.LearnedPositions(9, 8)),
        {"word.weight": [5, 8], "positions.weight": [9, 8]},
    ),
    "TransformerEmbedding": (
        lambda: nn.TransformerEmbedding(5, 8, 9, 2),
        {"word.weight": [5, 8], "position.weight": [9, 8], "token_type.weight": [2, 8], **norm("norm")},
    ),
    "TransformerEmbedding, words only": (
        lambda: nn.TransformerEmbedding(5, 8, 0, 0),
        {"word.weight": [5, 8], **norm("norm")},
    ),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(8, 2, 12, drop_path=0.1), ENCODER),
    "pre-norm encoder layer": (lambda: nn.TransformerEncoderLayer(8, 2, 12, norm_first=True), ENCODER),
    "gated encoder layer": (
        lambda: nn.TransformerEncoderLayer(
            8, 2, 12, "swiglu", norm="rms", use_bias=False, num_kv_heads=1, rotary=ROTARY
        ),
        GATED,
    ),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(1, 8, 2, 12),
        {f"layers.0.{name}": shape for name, shape in ENCODER.items()},
    ),
    "pre-norm encoder": (
        lambda: nn.TransformerEncoder(1, 8, 2, 12, norm_first=True),
        {**{f"layers.0.{name}": shape for name, shape in ENCODER.items()}, **norm("norm")},
    ),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(8, 2, 12, memory_size=6), DECODER),
    "decoder layer alone": (
        lambda: nn.TransformerDecoderLayer(8, 2, 12, cross_attention=False),
        ENCODER,
    ),
    "pre-norm decoder": (
        lambda: nn.TransformerDecoder(1, 8, 2, 12, memory_size=6, norm_first=True),
        {**{f"layers.0.{name}": shape for name, shape in DECODER.items()}, **norm("norm")},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_names_and_shapes_are_frozen(name: str) -> None:
    make, expected = LAYERS[name]
    state = make().state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == expected
    assert list(state) == list(expected)  # the order, too: it is that of an optimizer's parameters
