"""Multi-head attention: its formula for every option, grouped heads, memories, prefixes, padding, errors."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from tests.nn.reference import array, attention, gradients, heads, hide, linear, padded, randomize, tensor

BATCH, LENGTH, WIDTH, HEADS = 2, 6, 24, 4
PLACE = np.arange(LENGTH)
BEHIND = PLACE[:, None] - PLACE


class Prefix(paddle.nn.Layer):
    """Two learned keys and values."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.key, self.value = (self.create_parameter([1, 2, heads, head_dim]) for _ in range(2))

    def forward(self, batch_size):
        return self.key.expand([batch_size, -1, -1, -1]), self.value.expand([batch_size, -1, -1, -1])


def make(**options) -> nn.MultiHeadAttention:
    paddle.seed(0)
    return randomize(nn.MultiHeadAttention(WIDTH, HEADS, **options))


SLOPES = np.array([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]).reshape(4, 1, 1)
OPTIONS = {
    "plain": ({}, np.zeros((LENGTH, LENGTH))),
    "grouped": ({"num_kv_heads": 2}, np.zeros((LENGTH, LENGTH))),
    "multi-query, wide heads": ({"num_kv_heads": 1, "head_dim": 10}, np.zeros((LENGTH, LENGTH))),
    "no bias": ({"use_bias": False}, np.zeros((LENGTH, LENGTH))),
    "causal": ({"causal": True}, hide(BEHIND >= 0)),
    "window": ({"window": (2, 1)}, hide((BEHIND <= 2) & (BEHIND >= -1))),
    "alibi": ({"alibi": True}, -SLOPES * np.abs(BEHIND)),
    "all": (
        {"causal": True, "window": (3, None), "alibi": True, "num_kv_heads": 2, "head_dim": 8},
        hide((BEHIND >= 0) & (BEHIND <= 3)) - SLOPES * np.abs(BEHIND),
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_self_attention_is_its_formula(name: str) -> None:
    options, scores_bias = OPTIONS[name]
    layer, x, bias = make(**options), array(BATCH, LENGTH, WIDTH), array(BATCH, 1, LENGTH, LENGTH, seed=1)
    got = layer(paddle.to_tensor(x), paddle.to_tensor(bias)).numpy()
    np.testing.assert_allclose(got, attention(layer, x, x, scores_bias + bias), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 2}, {"memory_size": 10}])
def test_cross_attention_is_its_formula(options: dict) -> None:
    layer, x = make(**options), array(BATCH, LENGTH, WIDTH)
    memory = array(BATCH, 5, options.get("memory_size", WIDTH), seed=1)
    lengths = np.array([5, 2])
    visible = np.arange(5) < lengths[:, None, None, None]
    got = layer(paddle.to_tensor(x), memory=paddle.to_tensor(memory), kv_lengths=paddle.to_tensor(lengths))
    np.testing.assert_allclose(got.numpy(), attention(layer, x, memory, hide(visible)), atol=1e-5)


def test_it_agrees_with_pytorch_forward_and_backward() -> None:
    torch = pytest.importorskip("torch")
    layer = make()
    other = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64)
    parts = (layer.query, layer.key, layer.value)
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.tensor(np.concatenate([p.weight.numpy().T for p in parts])))
        other.in_proj_bias.copy_(torch.tensor(np.concatenate([p.bias.numpy() for p in parts])))
        other.out_proj.weight.copy_(torch.tensor(layer.output.weight.numpy().T))
        other.out_proj.bias.copy_(torch.tensor(layer.output.bias.numpy()))
    x, direction = array(BATCH, LENGTH, WIDTH), array(BATCH, LENGTH, WIDTH, seed=1)
    mask = np.array([[1] * LENGTH, [1, 1, 1, 0, 0, 0]])
    one = paddle.to_tensor(x, stop_gradient=False)
    two = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = layer(one, nn.key_padding_mask(paddle.to_tensor(mask)))
    z, _ = other(two, two, two, key_padding_mask=torch.tensor(mask == 0), need_weights=False)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), atol=1e-5)
    (y * paddle.to_tensor(direction)).sum().backward()
    (z * torch.tensor(direction)).sum().backward()
    np.testing.assert_allclose(one.grad.numpy(), two.grad.numpy(), rtol=1e-4, atol=1e-5)
    expected = other.in_proj_weight.grad.numpy().reshape(3, WIDTH, WIDTH).swapaxes(1, 2)
    for part, gradient in zip(parts, expected, strict=True):
        np.testing.assert_allclose(part.weight.grad.numpy(), gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"alibi": True}, {"rotary": nn.RotaryEmbedding(6, 9)}])
def test_a_layer_converted_to_float64(options: dict) -> None:
    layer, x = make(causal=True, **options), tensor(BATCH, LENGTH, WIDTH)
    single = layer(x).numpy()
    layer.to(dtype="float64")
    layer.eval()
    with paddle.no_grad():
        double = layer(x.astype("float64"), cache=layer.new_cache(BATCH, LENGTH))
    assert double.dtype == paddle.float64
    np.testing.assert_allclose(double.numpy(), single, atol=1e-5)


def test_grouped_heads_are_repeated_heads() -> None:
    grouped = make(num_kv_heads=2)
    full = make()
    for name in ("query", "output"):
        getattr(full, name).set_state_dict(getattr(grouped, name).state_dict())
    for name in ("key", "value"):
        few, many = getattr(grouped, name), getattr(full, name)
        for parameter in ("weight", "bias"):
            values = getattr(few, parameter).numpy()
            by_head = values.reshape(*values.shape[:-1], 2, WIDTH // HEADS)
            repeated = by_head.repeat(2, axis=-2).reshape(*values.shape[:-1], WIDTH)
            getattr(many, parameter).set_value(repeated)
    x = tensor(BATCH, LENGTH, WIDTH)
    np.testing.assert_allclose(grouped(x).numpy(), full(x).numpy(), atol=1e-6)


@pytest.mark.parametrize("how", ["kv_lengths", "mask"])
@pytest.mark.parametrize(
    "options", [{}, {"causal": True, "num_kv_heads": 2}, {"window": (2, 2)}, {"alibi": True}]
)
def test_padding_changes_nothing(options: dict, how: str) -> None:
    layer, x, direction = make(**options), array(BATCH, LENGTH, WIDTH), tensor(BATCH, LENGTH, WIDTH, seed=1)
    lengths = np.array([LENGTH, 4])
    direction[1, 4:] = 0.0  # what padding gives is not looked at
    found = []
    for extra in (0, 1, 7):
        inputs = padded(x, extra)
        given = {"kv_lengths": paddle.to_tensor(lengths)}
        if how == "mask":
            mask = np.arange(LENGTH + extra) < lengths[:, None]
            given = {"bias": nn.key_padding_mask(paddle.to_tensor(mask.astype("int64")))}
        y = layer(inputs, **given)[:, :LENGTH]
        (y * direction).sum().backward()
        of_padding = inputs.grad.numpy()[:, LENGTH:]
        assert not of_padding.any()
        y = y.numpy()
        y[1, 4:] = 0.0
        found.append({"y": y, "x": inputs.grad.numpy()[:, :LENGTH].copy(), **gradients(layer)})
    for other in found[1:]:
        for name, value in other.items():
            np.testing.assert_allclose(value, found[0][name], rtol=1e-5, atol=2e-5, err_msg=name)


def test_padding_may_even_be_nan_in_the_keys() -> None:
    layer, x = make(), array(BATCH, LENGTH, WIDTH)
    x[1, 4:] = np.nan
    y = layer(paddle.to_tensor(x), kv_lengths=paddle.to_tensor([LENGTH, 4])).numpy()
    expected = attention(layer, x[1:, :4], x[1:, :4], np.zeros((4, 4)))
    np.testing.assert_allclose(y[1:, :4], expected, atol=1e-5)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_prefix_is_keys_and_values_that_every_query_sees(causal: bool, has_bias: bool) -> None:
    layer, x = make(causal=causal, num_kv_heads=2), array(BATCH, LENGTH, WIDTH)
    layer.prefix = Prefix(2, WIDTH // HEADS)
    randomize(layer.prefix)
    lengths = np.array([LENGTH, 4])
    bias = array(1, HEADS, LENGTH, 1 if causal else LENGTH, seed=3) if has_bias else None
    y = layer(
        paddle.to_tensor(x),
        None if bias is None else paddle.to_tensor(bias),
        kv_lengths=paddle.to_tensor(lengths),
    ).numpy()

    # The formula with the prefix's keys and values in the place of two more tokens' projections.
    query = heads(linear(layer.query, x.astype("float64")), HEADS)
    key, value = (
        np.concatenate(
            [
                np.broadcast_to(learned.numpy().transpose(0, 2, 1, 3), (BATCH, 2, 2, WIDTH // HEADS)),
                heads(linear(part, x.astype("float64")), 2),
            ],
            axis=2,
        ).repeat(2, axis=1)
        for part, learned in ((layer.key, layer.prefix.key), (layer.value, layer.prefix.value))
    )
    visible = np.ones((BATCH, 1, LENGTH, LENGTH + 2), bool)
    visible[:, :, :, 2:] = np.arange(LENGTH) < lengths[:, None, None, None]
    if causal:
        visible[:, :, :, 2:] &= BEHIND >= 0
    added = np.zeros((1, HEADS, LENGTH, LENGTH + 2))
    if bias is not None:
        added[..., 2:] = bias
    weights = np.exp(query @ key.swapaxes(-1, -2) / np.sqrt(WIDTH // HEADS) + added) * visible
    weights /= weights.sum(-1, keepdims=True)
    context = (weights @ value).transpose(0, 2, 1, 3).reshape(BATCH, LENGTH, WIDTH)
    expected = linear(layer.output, context)
    np.testing.assert_allclose(y[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(y[1, :4], expected[1, :4], atol=1e-5)
    layer(paddle.to_tensor(x)).sum().backward()
    assert layer.prefix.key.grad.abs().max() > 0
    assert [name for name in layer.state_dict() if name.startswith("prefix")] == [
        "prefix.key",
        "prefix.value",
    ]


def test_a_prefix_before_a_memory() -> None:
    layer, x, memory = make(), tensor(BATCH, LENGTH, WIDTH), tensor(BATCH, 3, WIDTH, seed=1)
    without = layer(x, memory=memory).numpy()
    layer.prefix = Prefix(HEADS, WIDTH // HEADS)
    mask = paddle.to_tensor([[[[False, False, False]]]])
    # With all of the memory hidden, what is left is the prefix, the same for both memories.
    one, two = (layer(x, mask, memory=m).numpy() for m in (memory, 2 * memory))
    assert np.array_equal(one, two)
    assert not np.allclose(one, without)
    layer.prefix = None
    assert np.array_equal(layer(x, memory=memory).numpy(), without)


def test_dropout_on_the_weights_only_in_training() -> None:
    layer, x = make(dropout=0.5), tensor(BATCH, LENGTH, WIDTH)
    assert not np.array_equal(layer(x).numpy(), layer(x).numpy())
    layer.eval()
    assert np.array_equal(layer(x).numpy(), layer(x).numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_kv_heads": 3}, r"num_kv_heads: expected a divisor of num_heads=4, got 3"),
        ({"num_kv_heads": 0}, r"num_kv_heads: expected a positive integer, got 0"),
        ({"head_dim": 0}, r"head_dim: expected a positive integer, got 0"),
        ({"memory_size": 2.5}, r"memory_size: expected a positive integer, got 2.5"),
        ({"rotary": nn.RotaryEmbedding(8, 9)}, r"rotary: expected head_dim 6, got 8"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        nn.MultiHeadAttention(WIDTH, HEADS, **options)


def test_wrong_inputs() -> None:
    x = tensor(BATCH, LENGTH, WIDTH)
    with pytest.raises(
        InvalidInputError, match=r"hidden: expected shape \[-1, -1, 24\] .*, got \[2, 6, 23\]"
    ):
        make()(x[..., :23])
    with pytest.raises(InvalidInputError, match=r"memory: expected shape \[2, -1, 24\] .*, got \[1, 6, 24\]"):
        make()(x, memory=x[:1])
    with pytest.raises(InvalidInputError, match=r"memory: expected a tensor of width 10, got None"):
        make(memory_size=10)(x)
    for option in (
        {"causal": True},
        {"window": (1, 1)},
        {"alibi": True},
        {"rotary": nn.RotaryEmbedding(6, 9)},
    ):
        with pytest.raises(
            InvalidInputError, match=r"memory: expected None in attention with causal, window, "
        ):
            make(**option)(x, memory=x)
    layer = make(window=(1, 1))
    layer.prefix = Prefix(HEADS, WIDTH // HEADS)
    with pytest.raises(UnsupportedError, match=r"prefix: expected None in attention with window or alibi"):
        layer(x)
    layer = make()
    layer.prefix = Prefix(HEADS, 5)
    with pytest.raises(
        InvalidInputError, match=r"prefix, keys: expected shape \[2, -1, 4, 6\] .*, got \[2, 2, 4, 5\]"
    ):
        layer(x)


def test_wrong_caches() -> None:
    x = tensor(BATCH, LENGTH, WIDTH)
    layer = make(causal=True)
    cache = layer.new_cache(BATCH, LENGTH)
    with pytest.raises(UnsupportedError, match=r"cache: expected evaluation mode and no gradients"):
        layer(x, cache=cache)
    layer.eval()
    with pytest.raises(UnsupportedError, match=r"cache: expected evaluation mode and no gradients"):
        layer(x, cache=cache)
    other = make()
    other.eval()
    with paddle.no_grad():
        with pytest.raises(
            InvalidInputError, match=r"cache: expected None in attention that is not causal, got"
        ):
            other(x, cache=cache)
        with pytest.raises(
            InvalidDtypeError, match=r"cache: expected a MemoryCache with memory, got KeyValueCache"
        ):
            layer(x, memory=x, cache=cache)
        with pytest.raises(
            InvalidInputError, match=r"memory: expected a tensor at the first use of a MemoryCache"
        ):
            other(x, cache=nn.MemoryCache())
