"""nn.Linear has the numbers of Paddle's layer and an activation."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddle_infra import nn
from tests.ops.linear_cases import ACTIVATIONS

ROWS, IN, OUT = 9, 40, 50


def make(activation="none", **options):
    paddle.seed(0)
    return nn.Linear(IN, OUT, activation, **options)


def batch():
    return paddle.to_tensor(np.random.default_rng(1).standard_normal((ROWS, IN)).astype("float32"))


def activated(z, activation):
    functions = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu, "swiglu": F.swiglu, "none": lambda z: z}
    return F.gelu(z, approximate=True) if activation == "gelu_tanh" else functions[activation](z)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("options", [{}, {"bias_attr": False}], ids=["bias", "plain"])
def test_it_is_paddles_layer_and_the_activation(activation, options):
    layer, plain = make(activation, **options), paddle.nn.Linear(IN, OUT, **options)
    assert list(plain.state_dict()) == list(layer.state_dict())
    plain.set_state_dict(layer.state_dict())
    direction = paddle.to_tensor(np.random.default_rng(2).standard_normal((ROWS, OUT)).astype("float32"))
    x, other = batch(), batch()
    x.stop_gradient = other.stop_gradient = False
    y, expected = layer(x), activated(plain(other), activation)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-5, atol=2e-6)
    direction = direction[:, : y.shape[1]]
    (y * direction).sum().backward()
    (expected * direction).sum().backward()
    pairs = [(x, other), *zip(layer.parameters(), plain.parameters(), strict=True)]
    for one, two in pairs:
        np.testing.assert_allclose(one.grad.numpy(), two.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_attributes_and_names_are_those_of_paddles_layer():
    attr = paddle.ParamAttr(name="a_name", initializer=paddle.nn.initializer.Constant(2.0))
    layer = nn.Linear(3, 4, "relu", weight_attr=attr)
    assert layer.weight.name == "a_name"
    assert float(layer.weight.sum()) == 24.0
    assert isinstance(layer, paddle.nn.Linear)


def test_another_dtype_runs_in_plain_paddle():
    layer = make("gelu").to(dtype="float64")
    x = batch().astype("float64")
    y = layer(x)
    assert y.dtype == paddle.float64
    np.testing.assert_allclose(y.numpy(), F.gelu(F.linear(x, layer.weight, layer.bias)).numpy(), rtol=1e-12)
