"""Encoder and decoder, in both places of the norm, beside PyTorch; depth, padding, options."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from paddle_infra._core.errors import InvalidInputError
from tests.nn.reference import array, gradients, padded, randomize, tensor

BATCH, LENGTH, WIDTH, HEADS, INNER = 2, 6, 24, 4, 32
QUIET = {"dropout": 0.0, "attention_dropout": 0.0}


def make(cls, *sizes: int, **options) -> paddle.nn.Layer:
    paddle.seed(0)
    return randomize(cls(*sizes, WIDTH, HEADS, INNER, **{**QUIET, **options}))


def copy_linear(torch, source: paddle.nn.Linear, weight, bias) -> None:
    weight.copy_(torch.tensor(source.weight.numpy().T))
    bias.copy_(torch.tensor(source.bias.numpy()))


def copy_attention(torch, source: nn.MultiHeadAttention, target) -> None:
    parts = (source.query, source.key, source.value)
    weights, biases = target.in_proj_weight.chunk(3), target.in_proj_bias.chunk(3)
    for part, weight, bias in zip(parts, weights, biases, strict=True):
        copy_linear(torch, part, weight, bias)
    copy_linear(torch, source.output, target.out_proj.weight, target.out_proj.bias)


def copy_layer(torch, source, target) -> None:
    """Copy an encoder or decoder layer's weights into PyTorch's."""
    copy_attention(torch, source.attention, target.self_attn)
    norms = [source.attention_norm, source.output_norm]
    if isinstance(source, nn.TransformerDecoderLayer):
        copy_attention(torch, source.cross_attention, target.multihead_attn)
        norms.insert(1, source.cross_attention_norm)
    copy_linear(torch, source.intermediate, target.linear1.weight, target.linear1.bias)
    copy_linear(torch, source.output, target.linear2.weight, target.linear2.bias)
    for number, norm in enumerate(norms, 1):
        copy_norm(torch, norm, getattr(target, f"norm{number}"))


def copy_norm(torch, source, target) -> None:
    target.weight.copy_(torch.tensor(source.weight.numpy()))
    target.bias.copy_(torch.tensor(source.bias.numpy()))


def copied(torch, stack, layer_class, stack_class):
    """Return PyTorch's stack, in float64, with the same weights."""
    first = stack.layers[0]
    layer = layer_class(
        WIDTH,
        HEADS,
        INNER,
        0.0,
        "gelu",
        1e-5,
        batch_first=True,
        norm_first=first.norm_first,
        dtype=torch.float64,
    )
    norm = torch.nn.LayerNorm(WIDTH, 1e-5, dtype=torch.float64) if first.norm_first else None
    options = {"enable_nested_tensor": False} if stack_class is torch.nn.TransformerEncoder else {}
    other = stack_class(layer, len(stack.layers), norm, **options)
    with torch.no_grad():
        for source, target in zip(stack.layers, other.layers, strict=True):
            copy_layer(torch, source, target)
        if norm is not None:
            copy_norm(torch, stack.norm, other.norm)
    return other


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_encoder_is_pytorchs(norm_first: bool) -> None:
    torch = pytest.importorskip("torch")
    stack = make(nn.TransformerEncoder, 2, norm_first=norm_first, epsilon=1e-5)
    other = copied(torch, stack, torch.nn.TransformerEncoderLayer, torch.nn.TransformerEncoder)
    x, direction = array(BATCH, LENGTH, WIDTH), array(BATCH, LENGTH, WIDTH, seed=1)
    mask = np.array([[1] * LENGTH, [1, 1, 1, 0, 0, 0]])
    direction[1, 3:] = 0.0
    one = paddle.to_tensor(x, stop_gradient=False)
    two = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = stack(one, nn.key_padding_mask(paddle.to_tensor(mask)))
    z = other(two, src_key_padding_mask=torch.tensor(mask == 0))
    is_token = mask == 1
    np.testing.assert_allclose(y.numpy()[is_token], z.detach().numpy()[is_token], atol=2e-5)
    (y * paddle.to_tensor(direction)).sum().backward()
    (z * torch.tensor(direction)).sum().backward()
    np.testing.assert_allclose(one.grad.numpy(), two.grad.numpy(), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(stack.layers, other.layers, strict=True):
        np.testing.assert_allclose(
            ours.intermediate.weight.grad.numpy().T, theirs.linear1.weight.grad.numpy(), rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(
            ours.attention_norm.weight.grad.numpy(), theirs.norm1.weight.grad.numpy(), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_decoder_is_pytorchs(norm_first: bool) -> None:
    torch = pytest.importorskip("torch")
    stack = make(nn.TransformerDecoder, 2, norm_first=norm_first)
    other = copied(torch, stack, torch.nn.TransformerDecoderLayer, torch.nn.TransformerDecoder)
    x, memory = array(BATCH, LENGTH, WIDTH), array(BATCH, 4, WIDTH, seed=1)
    direction = array(BATCH, LENGTH, WIDTH, seed=2)
    hidden_memory = np.array([[False] * 4, [False, False, True, True]])
    ours = [paddle.to_tensor(a, stop_gradient=False) for a in (x, memory)]
    theirs = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, memory)]
    y = stack(ours[0], memory=ours[1], memory_lengths=paddle.to_tensor([4, 2]))
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    z = other(*theirs, tgt_mask=causal, memory_key_padding_mask=torch.tensor(hidden_memory))
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), atol=2e-5)
    (y * paddle.to_tensor(direction)).sum().backward()
    (z * torch.tensor(direction)).sum().backward()
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.grad.numpy(), two.grad.numpy(), rtol=1e-4, atol=1e-4)
    with_bias = stack(ours[0], memory=ours[1], memory_bias=paddle.to_tensor(~hidden_memory).unsqueeze([1, 2]))
    np.testing.assert_allclose(with_bias.numpy(), y.numpy(), atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_layer_is_its_sublayers(norm_first: bool, norm: str) -> None:
    """Fused additions and norms against the same sublayers, one by one, in plain Paddle."""
    layer = make(
        nn.TransformerEncoderLayer, norm_first=norm_first, norm=norm, activation="swiglu", epsilon=1e-5
    )
    x = tensor(BATCH, LENGTH, WIDTH)
    assert isinstance(layer.output_norm, nn.RMSNorm if norm == "rms" else paddle.nn.LayerNorm)

    def mlp(hidden):
        return layer.output(layer.intermediate(hidden))

    expected = x
    for sublayer, its_norm in ((layer.attention, layer.attention_norm), (mlp, layer.output_norm)):
        inner = its_norm(expected) if norm_first else expected
        expected = expected + sublayer(inner)
        expected = expected if norm_first else its_norm(expected)
    np.testing.assert_allclose(layer(x).numpy(), expected.numpy(), atol=1e-5)


OPTIONS = {
    "post-norm": {},
    "pre-norm, rms, grouped, rotary, swiglu": {
        "norm_first": True,
        "norm": "rms",
        "num_kv_heads": 2,
        "rotary": nn.RotaryEmbedding(WIDTH // HEADS, 20),
        "activation": "swiglu",
        "use_bias": False,
    },
    "alibi, window": {"alibi": True, "window": (2, 2), "activation": "geglu"},
}


@pytest.mark.parametrize("how", ["kv_lengths", "mask"])
@pytest.mark.parametrize("name", OPTIONS)
def test_padding_changes_nothing_in_the_encoder(name: str, how: str) -> None:
    encoder = make(nn.TransformerEncoder, 2, **OPTIONS[name])
    x, direction = array(BATCH, LENGTH, WIDTH), array(BATCH, LENGTH, WIDTH, seed=1)
    lengths = np.array([LENGTH, 4])
    is_token = np.arange(LENGTH) < lengths[:, None]
    direction[~is_token] = 0.0
    found = []
    for extra in (0, 1, 7):
        inputs, given = padded(x, extra), {"kv_lengths": paddle.to_tensor(lengths)}
        if how == "mask":
            mask = np.arange(LENGTH + extra) < lengths[:, None]
            given = {"bias": nn.key_padding_mask(paddle.to_tensor(mask.astype("int64")))}
        y = encoder(inputs, **given)[:, :LENGTH]
        (y * paddle.to_tensor(direction)).sum().backward()
        gradient = inputs.grad.numpy()
        assert not gradient[:, LENGTH:].any()
        found.append({"y": y.numpy()[is_token], "x": gradient[:, :LENGTH], **gradients(encoder)})
    for other in found[1:]:
        for key, value in other.items():
            np.testing.assert_allclose(value, found[0][key], rtol=1e-4, atol=5e-5, err_msg=key)


@pytest.mark.parametrize("norm_first", [False, True])
def test_padding_changes_nothing_in_the_decoder(norm_first: bool) -> None:
    decoder = make(nn.TransformerDecoder, 2, norm_first=norm_first, memory_size=10)
    x, memory, direction = (
        array(BATCH, LENGTH, WIDTH),
        array(BATCH, 5, 10, seed=1),
        array(BATCH, LENGTH, WIDTH, seed=2),
    )
    lengths, memory_lengths = np.array([3, LENGTH]), paddle.to_tensor([5, 2])
    is_token = np.arange(LENGTH) < lengths[:, None]
    direction[~is_token] = 0.0
    found = []
    for extra in (0, 1, 7):
        inputs, memories = padded(x, extra), padded(memory, extra, seed=5)
        y = decoder(
            inputs, memory=memories, kv_lengths=paddle.to_tensor(lengths), memory_lengths=memory_lengths
        )[:, :LENGTH]
        (y * paddle.to_tensor(direction)).sum().backward()
        of_memory = memories.grad.numpy()
        assert not of_memory[:, 5:].any()
        assert not of_memory[1, 2:].any()
        found.append(
            {
                "y": y.numpy()[is_token],
                "x": inputs.grad.numpy()[:, :LENGTH],
                "memory": of_memory[:, :5],
                **gradients(decoder),
            }
        )
    for other in found[1:]:
        for key, value in other.items():
            np.testing.assert_allclose(value, found[0][key], rtol=1e-4, atol=5e-5, err_msg=key)


def test_rates_of_stochastic_depth_grow_evenly() -> None:
    for cls in (nn.TransformerEncoder, nn.TransformerDecoder):
        stack = make(cls, 4, drop_path=0.3)
        np.testing.assert_allclose([layer.drop_path for layer in stack.layers], [0.0, 0.1, 0.2, 0.3])
    assert [layer.drop_path for layer in make(nn.TransformerEncoder, 1, drop_path=0.3).layers] == [0.0]


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_dropped_branch_leaves_the_residual(norm_first: bool) -> None:
    layer = make(nn.TransformerEncoderLayer, norm_first=norm_first, drop_path=0.9, epsilon=1e-5)
    x = tensor(200, 1, WIDTH)
    y = layer(x).numpy()
    left = x.numpy() if norm_first else layer.output_norm(layer.attention_norm(x)).numpy()
    is_left = np.isclose(y, left, atol=1e-5).all(axis=(1, 2))
    assert abs(is_left.mean() - 0.81) < 5 * np.sqrt(
        0.81 * 0.19 / 200
    )  # both branches are left out; five deviations
    layer.eval()
    assert not np.isclose(layer(x).numpy(), left, atol=1e-5).all(axis=(1, 2)).any()


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("cls", [nn.TransformerEncoder, nn.TransformerDecoder])
def test_dropout_in_training_only(cls: type, norm_first: bool) -> None:
    stack = make(cls, 2, norm_first=norm_first, dropout=0.3)
    x = tensor(BATCH, LENGTH, WIDTH)
    given = {"memory": x} if cls is nn.TransformerDecoder else {}
    assert not np.array_equal(stack(x, **given).numpy(), stack(x, **given).numpy())
    stack.eval()
    assert np.array_equal(stack(x, **given).numpy(), stack(x, **given).numpy())


def test_the_last_addition_of_a_pre_norm_layer_drops_too() -> None:
    layer = make(nn.TransformerEncoderLayer, norm_first=True, dropout=0.5)
    layer.attention.output.weight.set_value(np.zeros((WIDTH, WIDTH), "float32"))
    layer.attention.output.bias.set_value(np.zeros(WIDTH, "float32"))
    x = tensor(50, LENGTH, WIDTH)
    is_dropped = (layer(x) == x).numpy()
    assert 0.4 < is_dropped.mean() < 0.6


def test_a_small_language_model_learns() -> None:
    paddle.seed(0)
    embed = nn.TokenEmbedding(7, WIDTH)
    decoder = nn.TransformerDecoder(
        2,
        WIDTH,
        HEADS,
        INNER,
        cross_attention=False,
        norm_first=True,
        rotary=nn.RotaryEmbedding(6, 16),
        **QUIET,
    )
    head = paddle.nn.Linear(WIDTH, 7)
    parameters = [*embed.parameters(), *decoder.parameters(), *head.parameters()]
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=parameters)
    ids = paddle.to_tensor((np.arange(12)[None] * np.array([[1], [2], [3]])) % 7)
    losses = []
    for _ in range(40):
        logits = head(decoder(embed(ids[:, :-1])))
        loss = paddle.nn.functional.cross_entropy(logits, ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[0] > 1.5
    assert losses[-1] < 0.4


def test_wrong_options() -> None:
    with pytest.raises(InvalidInputError, match=r"norm: expected one of 'layer', 'rms', got 'batch'"):
        make(nn.TransformerEncoderLayer, norm="batch")
    with pytest.raises(InvalidInputError, match=r"drop_path: expected a probability in \[0, 1\), got 1.0"):
        make(nn.TransformerEncoder, 2, drop_path=1.0)
    with pytest.raises(InvalidInputError, match=r"num_layers: expected a positive integer, got 0"):
        make(nn.TransformerDecoder, 0)
    with pytest.raises(
        InvalidInputError, match=r"memory_size: expected None without cross-attention, got 10"
    ):
        make(nn.TransformerDecoder, 1, cross_attention=False, memory_size=10)
