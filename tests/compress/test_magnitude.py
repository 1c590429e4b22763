"""Magnitude pruning: exact numbers of zeros, the smallest first, and still zero after training."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.compress import prune_weights, quantize_linears
from tests.compress.models import bert


def network() -> paddle.nn.Layer:
    paddle.seed(1)
    return paddle.nn.Sequential(paddle.nn.Linear(7, 13), paddle.nn.ReLU(), paddle.nn.Linear(13, 3))


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("scope", ["layer", "model"])
def test_exactly_as_many_zeros(sparsity: float, scope: Any) -> None:
    model, original = network(), network()
    masks = prune_weights(model, sparsity, scope=scope)
    pairs = [(model[i].weight.numpy(), original[i].weight.numpy()) for i in (0, 2)]
    if scope == "model":
        pairs = [tuple(np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))]
    for after, before in pairs:
        zeros = after == 0
        assert zeros.sum() == round(sparsity * before.size)
        assert (after[~zeros] == before[~zeros]).all()
        if 0 < zeros.sum() < before.size:
            assert np.abs(before[zeros]).max() < np.abs(before[~zeros]).min()
    assert masks.sparsity == pytest.approx(sparsity, abs=0.02)


def test_equal_weights_too() -> None:
    model = paddle.nn.Sequential(paddle.nn.Linear(4, 4))
    model[0].weight.set_value(np.ones([4, 4], np.float32))
    prune_weights(model, 0.5)
    assert (model[0].weight.numpy() == [[0] * 4, [0] * 4, [1] * 4, [1] * 4]).all()


def test_zeros_stay_while_training() -> None:
    model = network()
    masks = prune_weights(model, 0.7, names="0")
    zeros = model[0].weight.numpy() == 0
    optimizer = paddle.optimizer.AdamW(0.1, parameters=model.parameters())
    x = paddle.randn([16, 7])
    for _ in range(3):
        (model(x) ** 2).mean().backward()
        optimizer.step()
        optimizer.clear_grad()
        assert (model[0].weight.numpy()[zeros] != 0).any()
        masks.apply(model)
        assert (model[0].weight.numpy()[zeros] == 0).all()
    assert (model[0].weight.numpy()[~zeros] != network()[0].weight.numpy()[~zeros]).all()
    assert (model[2].weight.numpy() != 0).all()


def test_a_nan_becomes_zero_where_pruned() -> None:
    model = network()
    masks = prune_weights(model, 1.0)
    model[0].weight.set_value(np.full([7, 13], np.nan, np.float32))
    masks.apply(model)
    assert (model[0].weight.numpy() == 0).all()


def test_errors() -> None:
    with pytest.raises(InvalidInputError, match="sparsity: expected a finite number in"):
        prune_weights(network(), 1.5)
    with pytest.raises(InvalidInputError, match="scope: expected one of 'layer', 'model', got 'all'"):
        prune_weights(network(), 0.5, scope="all")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="expected a pattern that fits one of 0, 2, got 'x'"):
        prune_weights(network(), 0.5, names="x")
    with pytest.raises(UnsupportedError, match="got none"):
        prune_weights(network(), 0.5, exclude=["*"])
    with pytest.raises(InvalidInputError, match="linear layers: expected a pattern"):
        prune_weights(quantize_linears(network()), 0.5)
    with pytest.raises(
        InvalidInputError, match=r"0\.weight: expected a parameter of shape \[7, 13\], got None"
    ):
        prune_weights(network(), 0.5).apply(bert())
