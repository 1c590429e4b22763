"""LoRA, IA³, AdaLoRA and bottlenecks against their formulas and gradients in float64 NumPy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra import peft
from paddle_infra.nn import Linear

ROWS, IN, OUT = 7, 5, 6


def case(layer: paddle.nn.Layer, config: peft.AdapterConfig):
    """An adapted layer, its float64 values, an input and a gradient of the output."""
    paddle.seed(0)
    layers = paddle.nn.Sequential(("only", layer))
    layers.eval()
    generator = np.random.default_rng(3)
    peft.apply(layers, config)
    adapter = layers.only.adapters["default"]
    for parameter in adapter.parameters():
        parameter.set_value(generator.normal(size=parameter.shape).astype("float32"))
    values = {name: p.numpy().astype("float64") for name, p in adapter.named_parameters()}
    own = {name: layers.only._parameters[name].numpy().astype("float64") for name in ("weight", "bias")}
    x, gradient = generator.normal(size=(ROWS, IN)), generator.normal(size=(ROWS, OUT))
    inputs = paddle.to_tensor(x.astype("float32"), stop_gradient=False)
    output = layers(inputs)
    (output * paddle.to_tensor(gradient.astype("float32"))).sum().backward()
    found = {name: p.grad.numpy() for name, p in adapter.named_parameters()}
    assert layers.only._parameters["weight"].grad is None
    return output.numpy(), inputs.grad.numpy(), found, own, values, x, gradient


def check(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("stabilized", [False, True])
@pytest.mark.parametrize("kind", [paddle.nn.Linear, Linear])
def test_lora(kind: type, stabilized: bool) -> None:
    config = peft.LoRAConfig(rank=4, alpha=3.0, rank_stabilized=stabilized, layers=["only"])
    y, dx, grads, own, v, x, g = case(kind(IN, OUT), config)
    scale = 3.0 / 2.0 if stabilized else 3.0 / 4.0
    check(y, x @ own["weight"] + own["bias"] + scale * x @ v["down"] @ v["up"])
    check(grads["down"], scale * x.T @ g @ v["up"].T)
    check(grads["up"], scale * (x @ v["down"]).T @ g)
    check(dx, g @ (own["weight"] + scale * v["down"] @ v["up"]).T)


def test_lora_before_an_activation() -> None:
    y, dx, grads, own, v, x, g = case(
        Linear(IN, OUT, "silu"), peft.LoRAConfig(rank=2, alpha=2.0, layers=["only"])
    )
    z = x @ own["weight"] + own["bias"] + x @ v["down"] @ v["up"]
    sigmoid = 1 / (1 + np.exp(-z))
    check(y, z * sigmoid)
    dz = g * (sigmoid + z * sigmoid * (1 - sigmoid))
    check(grads["down"], x.T @ dz @ v["up"].T)
    check(grads["up"], (x @ v["down"]).T @ dz)
    check(dx, dz @ (own["weight"] + v["down"] @ v["up"]).T)


@pytest.mark.parametrize("is_input", [False, True])
@pytest.mark.parametrize("kind", [paddle.nn.Linear, Linear])
def test_ia3(kind: type, is_input: bool) -> None:
    layers = paddle.nn.Sequential(("only", kind(IN, OUT)), ("other", kind(OUT, OUT)))
    paddle.seed(0)
    names = ("other", "only") if is_input else ("only", "other")
    peft.apply(layers, peft.IA3Config(layers=[names[0]], input_layers=[names[1]]))
    layer = layers.only
    factors = layer.adapters["default"].factors
    generator = np.random.default_rng(3)
    factors.set_value(generator.normal(size=factors.shape).astype("float32"))
    x, g = generator.normal(size=(ROWS, IN)), generator.normal(size=(ROWS, OUT))
    inputs = paddle.to_tensor(x.astype("float32"), stop_gradient=False)
    output = layer(inputs)
    (output * paddle.to_tensor(g.astype("float32"))).sum().backward()
    weight, bias, f = (
        t.numpy().astype("float64") for t in (layer._parameters["weight"], layer._parameters["bias"], factors)
    )
    if is_input:
        check(output.numpy(), (x * f) @ weight + bias)
        check(factors.grad.numpy(), (x * (g @ weight.T)).sum(0))
        check(inputs.grad.numpy(), (g @ weight.T) * f)
    else:
        check(output.numpy(), (x @ weight + bias) * f)
        check(factors.grad.numpy(), ((x @ weight + bias) * g).sum(0))
        check(inputs.grad.numpy(), (g * f) @ weight.T)


def test_adalora() -> None:
    config = peft.AdaLoRAConfig(rank=4, alpha=2.0, layers=["only"])
    y, dx, grads, own, v, x, g = case(Linear(IN, OUT), config)
    p, d, q = v["left"], v["diagonal"], v["right"]
    check(y, x @ own["weight"] + own["bias"] + 0.5 * (x @ p) * d @ q)
    check(grads["left"], 0.5 * x.T @ (g @ q.T * d))
    check(grads["diagonal"], 0.5 * ((x @ p) * (g @ q.T)).sum(0))
    check(grads["right"], 0.5 * ((x @ p) * d).T @ g)
    check(dx, g @ own["weight"].T + 0.5 * (g @ q.T * d) @ p.T)


def test_bottleneck() -> None:
    config = peft.BottleneckConfig(size=3, activation="relu", layers=["only"])
    y, _, grads, own, v, x, g = case(Linear(IN, OUT), config)
    z = x @ own["weight"] + own["bias"]
    inner = np.maximum(z @ v["down"] + v["down_bias"], 0)
    check(y, z + inner @ v["up"] + v["up_bias"])
    d_inner = (g @ v["up"].T) * (inner > 0)
    check(grads["up"], inner.T @ g)
    check(grads["up_bias"], g.sum(0))
    check(grads["down"], z.T @ d_inner)
    check(grads["down_bias"], d_inner.sum(0))


def test_embedding_with_a_padding_row() -> None:
    paddle.seed(0)
    layers = paddle.nn.Sequential(("table", paddle.nn.Embedding(9, 4, padding_idx=2)))
    peft.apply_lora(layers, layers=["table"], rank=3, alpha=6.0)
    adapter = layers.table.adapters["default"]
    generator = np.random.default_rng(0)
    adapter.down.set_value(generator.normal(size=(9, 3)).astype("float32"))
    down, up = (t.numpy().astype("float64") for t in (adapter.down, adapter.up))
    ids, g = np.array([[1, 2, 8], [1, 0, 2]]), generator.normal(size=(2, 3, 4))
    out = layers(paddle.to_tensor(ids))
    (out * paddle.to_tensor(g.astype("float32"))).sum().backward()
    table = layers.table._parameters["weight"].numpy()
    is_token = (ids != 2)[..., None]
    check(out.numpy(), (table[ids] + 2.0 * down[ids] @ up) * is_token)
    expected = np.zeros_like(down)
    np.add.at(expected, ids, 2.0 * (g * is_token) @ up.T)
    check(adapter.down.grad.numpy(), expected)
    check(adapter.up.grad.numpy(), 2.0 * np.einsum("bsr,bsd->rd", down[ids] * is_token, g))


def test_lora_dropout_is_on_its_own_path_only() -> None:
    layers = paddle.nn.Sequential(("only", Linear(IN, OUT)))
    paddle.seed(0)
    peft.apply_lora(layers, layers=["only"], dropout=0.5)
    layers.only.adapters["default"].up.set_value(paddle.ones([8, OUT]))
    x = paddle.randn([ROWS, IN])
    layers.train()
    first, second = layers(x).numpy(), layers(x).numpy()
    assert (first != second).any()
    layers.eval()
    assert np.array_equal(layers(x).numpy(), layers(x).numpy())
    with peft.disabled(layers):
        layers.train()
        assert np.array_equal(layers(x).numpy(), layers(x).numpy())
