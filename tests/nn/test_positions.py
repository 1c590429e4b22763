"""Rotary, sinusoidal and learned positions, slopes of ALiBi, and embeddings that use them."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from tests.nn.reference import array, randomize, tensor

DIM, MOST = 8, 32


def turned(x: np.ndarray, positions: np.ndarray, angle_of: np.ndarray, layout: str) -> np.ndarray:
    """Turn pairs as complex numbers, in float64."""
    pairs = len(angle_of)
    x = x.astype("float64")
    order = np.arange(2 * pairs)
    first, second = (order[:pairs], order[pairs:]) if layout == "half" else (order[0::2], order[1::2])
    angle = np.multiply.outer(positions, angle_of)[..., None, :]
    z = (x[..., first] + 1j * x[..., second]) * np.exp(1j * angle)
    y = x.copy()
    y[..., first], y[..., second] = z.real, z.imag
    return y


ROTARY = {
    "half": ({}, 10000.0 ** (-np.arange(4) / 4)),
    "interleaved": ({"layout": "interleaved"}, 10000.0 ** (-np.arange(4) / 4)),
    "part": ({"rotary_dim": 4, "base": 100.0}, 100.0 ** (-np.arange(2) / 2)),
    "part, interleaved": ({"rotary_dim": 6, "layout": "interleaved"}, 10000.0 ** (-np.arange(3) / 3)),
    "linear": ({"scaling": "linear", "factor": 4.0}, 10000.0 ** (-np.arange(4) / 4) / 4.0),
    "ntk": (
        {"scaling": "ntk", "factor": 2.0},
        (10000.0 * 2.0 ** (8 / 6)) ** (-np.arange(4) / 4),
    ),
}


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_turns_pairs(name: str) -> None:
    options, angle_of = ROTARY[name]
    rotary = nn.RotaryEmbedding(DIM, MOST, **options)
    layout = options.get("layout", "half")
    x = array(2, 5, 3, DIM)
    one = rotary(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(one, turned(x, np.arange(5), angle_of, layout), atol=2e-6)
    positions = np.array([[0, 3, 31, 2, 2], [7, 8, 9, 10, 11]])
    other = rotary(paddle.to_tensor(x), paddle.to_tensor(positions)).numpy()
    np.testing.assert_allclose(other, turned(x, positions, angle_of, layout), atol=2e-6)
    assert rotary.state_dict() == {}


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_products_see_the_distance_only(layout: str) -> None:
    rotary = nn.RotaryEmbedding(DIM, 1000, layout=layout)
    query, key = tensor(1, 1, 1, DIM), tensor(1, 1, 1, DIM, seed=1)
    found = [
        float((rotary(query, paddle.to_tensor([place])) * rotary(key, paddle.to_tensor([place - 5]))).sum())
        for place in (5, 6, 100, 999)
    ]
    np.testing.assert_allclose(found, found[0], rtol=1e-5)
    far = float((rotary(query, paddle.to_tensor([50])) * rotary(key, paddle.to_tensor([0]))).sum())
    assert abs(far - found[0]) > 1e-2


def test_rotary_passes_gradients_on() -> None:
    rotary, x = nn.RotaryEmbedding(DIM, MOST, rotary_dim=4), tensor(2, 5, 3, DIM)
    x.stop_gradient = False
    direction = tensor(2, 5, 3, DIM, seed=1)
    (rotary(x) * direction).sum().backward()
    # A rotation's transpose is its inverse, so turning the gradient again gives the direction.
    np.testing.assert_allclose(rotary(x.grad).numpy(), direction.numpy(), atol=1e-6)


def test_wrong_rotary() -> None:
    for dim, options, message in (
        (7, {}, r"rotary_dim: expected an even number in \[2, 7\], the last is head_dim, got 7"),
        (8, {"rotary_dim": 10}, r"rotary_dim: expected an even number in \[2, 8\].*, got 10"),
        (8, {"rotary_dim": 2, "scaling": "ntk"}, r"rotary_dim: expected an even number in \[4, 8\].*, got 2"),
        (8, {"layout": "other"}, r"layout: expected one of 'half', 'interleaved', got 'other'"),
        (8, {"scaling": "yarn"}, r"scaling: expected one of 'none', 'linear', 'ntk', got 'yarn'"),
        (8, {"factor": 0.5}, r"factor: expected a finite number in \[1, inf\], got 0.5"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            nn.RotaryEmbedding(dim, MOST, **options)
    rotary = nn.RotaryEmbedding(DIM, 4)
    with pytest.raises(
        InvalidInputError, match=r"x: expected shape \[-1, -1, -1, 8\] .*, got \[2, 3, 4, 6\]"
    ):
        rotary(tensor(2, 3, 4, 6))
    with pytest.raises(InvalidInputError, match=r"positions: expected numbers in \[0, 4\), got 4"):
        rotary(tensor(2, 5, 4, 8))
    with pytest.raises(InvalidInputError, match=r"positions: expected numbers in \[0, 4\), got -1"):
        rotary(tensor(2, 1, 4, 8), paddle.to_tensor([-1]))
    with pytest.raises(InvalidInputError, match=r"positions: expected shape \[3\] or \[2, 3\], got \[3, 3\]"):
        rotary(tensor(2, 3, 4, 8), paddle.zeros([3, 3], "int64"))
    with pytest.raises(InvalidDtypeError, match=r"positions: expected dtype int32 or int64, got float32"):
        rotary(tensor(2, 3, 4, 8), paddle.zeros([3]))


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_sinusoidal_positions(layout: str) -> None:
    embed = nn.SinusoidalPositions(6, 50, layout=layout)
    row = embed(paddle.to_tensor([[3, 49]])).numpy()[0, 1]
    angles = [49.0, 49.0 / 10000 ** (2 / 6), 49.0 / 10000 ** (4 / 6)]
    sines, cosines = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
    pairs = zip(sines, cosines, strict=True)
    expected = [number for pair in pairs for number in pair] if layout == "interleaved" else sines + cosines
    np.testing.assert_allclose(row, expected, atol=1e-7)
    assert embed.state_dict() == {}
    with pytest.raises(InvalidInputError, match=r"positions: expected numbers in \[0, 50\), got 50"):
        embed(paddle.to_tensor([50]))
    with pytest.raises(InvalidInputError, match=r"hidden_size: expected an even number, got 5"):
        nn.SinusoidalPositions(5, 50)


def test_learned_positions() -> None:
    embed = nn.LearnedPositions(4, 3, offset=2)
    assert embed.weight.shape == [6, 3]
    assert np.array_equal(embed(paddle.to_tensor([[0, 3]])).numpy(), embed.weight.numpy()[[[2, 5]]])
    with pytest.raises(InvalidInputError, match=r"positions: expected numbers in \[0, 4\), got 4"):
        embed(paddle.to_tensor([4]))
    with pytest.raises(InvalidInputError, match=r"offset: expected 0 or more, got -1"):
        nn.LearnedPositions(4, 3, offset=-1)


def test_slopes_also_for_numbers_that_are_no_power_of_two() -> None:
    assert nn.alibi_slopes(1).numpy().tolist() == [2.0**-8]
    assert nn.alibi_slopes(8).numpy().tolist() == [2.0**-n for n in range(1, 9)]
    assert nn.alibi_slopes(6).numpy().tolist() == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]
    expected = [2.0**-n for n in range(1, 9)] + [2.0 ** -(n / 2) for n in (1, 3, 5, 7)]
    np.testing.assert_allclose(nn.alibi_slopes(12).numpy(), expected, rtol=1e-6)
    with pytest.raises(InvalidInputError, match=r"num_heads: expected a positive integer, got 0"):
        nn.alibi_slopes(0)


IDS = np.array([[3, 1, 4, 1], [5, 9, 2, 6]])


def test_token_embedding_is_scaled_words_and_positions() -> None:
    positions = nn.SinusoidalPositions(6, 20)
    embed = nn.TokenEmbedding(10, 6, positions=positions, scale=math.sqrt(6.0))
    word, place = embed.word.weight.numpy().astype("float64")[IDS] * math.sqrt(6.0), positions.table.numpy()
    for options, expected in (
        ({}, place[:4]),
        ({"lengths": paddle.to_tensor([2, 7], dtype="int32")}, place[[[2, 3, 4, 5], [7, 8, 9, 10]]]),
        ({"position_ids": paddle.to_tensor([5, 4, 3, 2])}, place[[5, 4, 3, 2]]),
    ):
        np.testing.assert_allclose(
            embed(paddle.to_tensor(IDS), **options).numpy(), word + expected, atol=1e-6
        )
    plain = nn.TokenEmbedding(10, 6)
    assert np.array_equal(plain(paddle.to_tensor(IDS)).numpy(), plain.word.weight.numpy()[IDS])
    dropping = nn.TokenEmbedding(10, 6, dropout=0.9)
    assert (dropping(paddle.to_tensor(IDS)).numpy() == 0.0).mean() > 0.5
    dropping.eval()
    assert not (dropping(paddle.to_tensor(IDS)).numpy() == 0.0).any()


def test_wrong_token_embeddings() -> None:
    positions = nn.LearnedPositions(4, 6)
    with pytest.raises(InvalidInputError, match=r"positions: expected hidden_size 8, got 6"):
        nn.TokenEmbedding(10, 8, positions=positions)
    embed, ids = nn.TokenEmbedding(10, 6, positions=positions), paddle.to_tensor(IDS)
    with pytest.raises(InvalidInputError, match=r"input_ids: expected shape \[-1, -1\] .*, got \[4\]"):
        embed(ids[0])
    with pytest.raises(InvalidDtypeError, match=r"input_ids: expected dtype int32 or int64, got float32"):
        embed(ids.astype("float32"))
    with pytest.raises(InvalidInputError, match=r"positions: expected numbers in \[0, 4\), got 4"):
        embed(ids, lengths=paddle.to_tensor([0, 1]))
    with pytest.raises(InvalidInputError, match=r"lengths: expected None when position_ids are given"):
        embed(ids, ids, lengths=ids[:, 0])


def test_encoder_embeddings_without_types_or_positions_or_with_an_offset() -> None:
    ids = paddle.to_tensor(IDS)

    def expected(layer: nn.TransformerEmbedding, rest: np.ndarray) -> np.ndarray:
        x = layer.word.weight.numpy().astype("float64")[IDS] + rest
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * layer.norm.weight.numpy() + layer.norm.bias.numpy()

    for sizes, options in (((0, 0), {}), ((9, 0), {}), ((0, 2), {}), ((9, 2), {"position_offset": 2})):
        layer = randomize(nn.TransformerEmbedding(10, 6, *sizes, **options))
        layer.eval()
        place = layer.position.weight.numpy() if sizes[0] else np.zeros((9, 6))
        kind = layer.token_type.weight.numpy() if sizes[1] else np.zeros((2, 6))
        offset = options.get("position_offset", 0)
        np.testing.assert_allclose(
            layer(ids).numpy(), expected(layer, kind[0] + place[offset : offset + 4]), atol=2e-5
        )
    rows = np.array([[8, 1, 1, 1], [2, 3, 4, 5]])
    found = layer(ids, paddle.ones_like(ids), paddle.to_tensor(rows)).numpy()
    np.testing.assert_allclose(found, expected(layer, kind[1] + place[rows]), atol=2e-5)
    with pytest.raises(InvalidInputError, match=r"position_offset: expected a row of the 9 positions, got 9"):
        nn.TransformerEmbedding(10, 6, 9, 2, position_offset=9)
    with pytest.raises(InvalidInputError, match=r"token_type_ids: expected None, because token_type is None"):
        nn.TransformerEmbedding(10, 6, 9, 0)(ids, ids)
