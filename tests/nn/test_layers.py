from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from paddle_infra._core.errors import InvalidInputError


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def linear(layer: paddle.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.numpy().astype(np.float64) + layer.bias.numpy()


def test_attention_is_its_formula() -> None:
    paddle.seed(0)
    layer = nn.MultiHeadAttention(12, 3)
    layer.eval()
    x, bias = array(2, 5, 12), array(2, 3, 5, 5, seed=1)
    got = layer(paddle.to_tensor(x), paddle.to_tensor(bias)).numpy()
    q, k, v = (
        linear(part, x.astype(np.float64)).reshape(2, 5, 3, 4).transpose(0, 2, 1, 3)
        for part in (layer.query, layer.key, layer.value)
    )
    scores = np.exp(q @ k.swapaxes(-1, -2) / 2.0 + bias)
    context = (scores / scores.sum(-1, keepdims=True)) @ v
    expected = linear(layer.output, context.transpose(0, 2, 1, 3).reshape(2, 5, 12))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_masked_keys_have_no_weight_at_all() -> None:
    paddle.seed(0)
    layer = nn.MultiHeadAttention(8, 2)
    layer.eval()
    mask = paddle.to_tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    x = array(2, 4, 8)
    changed = x.copy()
    changed[0, 3:] = 1e3
    changed[1, 1:] = -1e3
    bias = nn.key_padding_mask(mask)
    one, other = (layer(paddle.to_tensor(value), bias).numpy() for value in (x, changed))
    assert np.array_equal(one[0, :3], other[0, :3])
    assert np.array_equal(one[1, :1], other[1, :1])


@pytest.mark.parametrize(("hidden_size", "num_heads"), [(10, 3), (8, 0)])
def test_heads_must_divide_the_width(hidden_size: int, num_heads: int) -> None:
    with pytest.raises(InvalidInputError, match=f"got hidden_size={hidden_size}, num_heads={num_heads}"):
        nn.MultiHeadAttention(hidden_size, num_heads)


def test_unknown_activation() -> None:
    with pytest.raises(InvalidInputError, match=r"activation must be one of \['gelu', .*\], got 'swish2'"):
        nn.TransformerEncoderLayer(8, 2, 16, "swish2")


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_every_parameter_of_the_encoder_gets_a_gradient(activation: str) -> None:
    paddle.seed(0)
    encoder = nn.TransformerEncoder(2, 8, 2, 16, activation=activation, dropout=0.0, attention_dropout=0.0)
    direction = paddle.to_tensor(
        array(2, 3, 8, seed=1)
    )  # not the sum of squares: the last norm makes that constant
    (encoder(paddle.to_tensor(array(2, 3, 8))) * direction).sum().backward()
    # The key's bias shifts all scores of a query alike, so its gradient is zero but for rounding.
    small = [
        name
        for name, p in encoder.named_parameters()
        if p.grad is None or (np.abs(p.grad.numpy()).max() < 1e-6 and not name.endswith("key.bias"))
    ]
    assert small == []


def test_dropout_only_in_training() -> None:
    paddle.seed(0)
    layer, x = (
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, attention_dropout=0.5),
        paddle.to_tensor(array(2, 3, 8)),
    )
    layer.eval()
    assert np.array_equal(layer(x).numpy(), layer(x).numpy())
    layer.train()
    assert not np.array_equal(layer(x).numpy(), layer(x).numpy())


def test_mean_pool_counts_real_tokens_only() -> None:
    hidden = paddle.to_tensor([[[1.0], [3.0], [100.0]], [[5.0], [100.0], [100.0]], [[7.0], [7.0], [7.0]]])
    mask = paddle.to_tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert nn.mean_pool(hidden, mask).numpy().tolist() == [[2.0], [5.0], [0.0]]
    assert nn.cls_pool(hidden).numpy().tolist() == [[1.0], [5.0], [7.0]]


@pytest.mark.parametrize(
    ("cls", "shape"), [(nn.SequenceClassificationHead, (6,)), (nn.TokenClassificationHead, (2, 3))]
)
def test_head_loss_is_the_cross_entropy_of_its_logits(cls: type, shape: tuple[int, ...]) -> None:
    paddle.seed(0)
    head = cls(8, 4, 0.0)
    hidden = paddle.to_tensor(array(*shape, 8))
    labels = paddle.to_tensor(np.arange(6).reshape(shape) % 4)
    logits = head(hidden).numpy().astype(np.float64).reshape(6, 4)
    log_prob = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -log_prob[np.arange(6), np.arange(6) % 4].mean()
    loss = head.loss(hidden, labels)
    assert loss.shape == []
    np.testing.assert_allclose(float(loss), expected, rtol=1e-6)


def test_grouped_head_predicts_the_sums_of_the_fine_probabilities() -> None:
    paddle.seed(0)
    head = nn.SequenceClassificationHead(8, 4, 0.0, groups=[0, 1, 0, 1])
    hidden = paddle.to_tensor(30 * array(5, 8))  # logits of tens: plain exponentials would lose digits
    fine = head.classifier(hidden).numpy().astype(np.float64)
    fine = np.exp(fine - fine.max(-1, keepdims=True))
    fine /= fine.sum(-1, keepdims=True)
    coarse = head(hidden).numpy().astype(np.float64)
    coarse = np.exp(coarse) / np.exp(coarse).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        coarse, np.stack([fine[:, 0] + fine[:, 2], fine[:, 1] + fine[:, 3]], -1), rtol=1e-5
    )
    labels = paddle.to_tensor([0, 1, 2, 3, 3])
    np.testing.assert_allclose(
        float(head.loss(hidden, labels)), -np.log(fine[np.arange(5), labels.numpy()]).mean(), rtol=1e-5
    )


@pytest.mark.parametrize("groups", [[0, 1, 0], [0, 2, 0, 2], [1, 1, 1, 1]])
def test_groups_must_fit(groups: list[int]) -> None:
    with pytest.raises(
        InvalidInputError, match=r"groups: expected a coarse class, .* of 4 fine ones, got \["
    ):
        nn.SequenceClassificationHead(8, 4, groups=groups)
