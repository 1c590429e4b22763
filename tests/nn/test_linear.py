"""nn.Linear: the numbers of Paddle's, and a rounded weight that is kept exactly as long as it is right."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest

from paddle_infra import nn, ops
from paddle_infra.nn import linear as module


@pytest.fixture
def packings(monkeypatch):
    """How often a weight was rounded."""
    calls = []
    pack = ops.pack_weight
    monkeypatch.setattr(module.ops, "pack_weight", lambda weight: calls.append(1) or pack(weight))
    return calls


def layer_and_input():
    paddle.seed(1)
    layer = nn.Linear(40, 30, "gelu")
    layer.eval()
    return layer, paddle.randn([5, 40])


def evaluate(layer, x):
    with paddle.no_grad(), ops.set_matmul_precision("medium"):
        return layer(x).numpy()


def expected(layer, x):
    with ops.set_matmul_precision("medium"):
        return ops.linear(x, layer.weight, layer.bias, activation=layer.activation).detach().numpy()


def test_it_is_paddles_layer_with_an_activation():
    layer, x = layer_and_input()
    plain = paddle.nn.Linear(40, 30)
    plain.set_state_dict(layer.state_dict())
    np.testing.assert_allclose(layer(x).numpy(), paddle.nn.functional.gelu(plain(x)).numpy(), atol=1e-6)


def test_the_weight_is_rounded_once(packings):
    layer, x = layer_and_input()
    for _ in range(3):
        np.testing.assert_array_equal(evaluate(layer, x), expected(layer, x))
    assert len(packings) == 1


def test_only_medium_evaluation_without_gradients_keeps_it(packings):
    layer, x = layer_and_input()
    with paddle.no_grad():
        layer(x)  # highest
    with ops.set_matmul_precision("medium"):
        layer(x)  # with gradients
        layer.train()
        with paddle.no_grad():
            layer(x)
    assert not packings


def step(layer, x):
    optimizer = paddle.optimizer.AdamW(0.1, parameters=layer.parameters())
    with ops.set_matmul_precision("medium"):
        layer(x).sum().backward()
    optimizer.step()
    optimizer.clear_grad()


@paddle.no_grad()
def set_item(layer, x):
    layer.weight[3] = 2.0


@paddle.no_grad()
def in_place(layer, x):
    layer.weight.scale_(0.5)


CHANGES = {
    "optimizer": step,
    "set_value": lambda layer, x: layer.weight.set_value(np.ones([40, 30], "float32")),
    "set_state_dict": lambda layer, x: layer.set_state_dict(
        {"weight": np.full([40, 30], 0.5, "float32"), "bias": np.zeros(30, "float32")}
    ),
    "set_item": set_item,
    "in_place": in_place,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_weight_is_rounded_anew(name, packings):
    layer, x = layer_and_input()
    before = evaluate(layer, x)
    CHANGES[name](layer, x)
    after = evaluate(layer, x)
    assert (after != before).any()
    np.testing.assert_array_equal(after, expected(layer, x))
    assert len(packings) == 2


def test_a_copy_keeps_its_own():
    layer, x = layer_and_input()
    before = evaluate(layer, x)
    other = copy.deepcopy(layer)
    in_place(other, x)
    np.testing.assert_array_equal(evaluate(other, x), expected(other, x))
    np.testing.assert_array_equal(evaluate(layer, x), before)
