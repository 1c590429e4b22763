"""Columns of tables, Dice and dense layers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from tests.nn.torch_gold import agrees, rows, torch


def test_categories_and_lists() -> None:
    paddle.seed(0)
    layer, ids = nn.CategoryEmbedding([3, 5], 4), np.array([[[0, 4], [2, 1]]])
    found = layer(paddle.to_tensor(ids)).numpy()
    tables = [table.weight.numpy() for table in layer.tables]
    assert found.shape == (1, 2, 2, 4)
    assert np.array_equal(found[0, 0, 1], tables[1][4])
    assert np.array_equal(found[0, 1, 0], tables[0][2])
    bags = nn.BagEmbedding([3, 5], 4)
    tables = [table.weight.numpy() for table in bags.embedding.tables]
    ids, lengths = np.array([[[0, 2, 2], [4, 1, 0]], [[1, 9, 9], [-5, 99, 7]]]), np.array([[3, 2], [1, 0]])
    mean = bags(paddle.to_tensor(ids), paddle.to_tensor(lengths)).numpy()
    np.testing.assert_allclose(mean[0, 0], (tables[0][0] + 2 * tables[0][2]) / 3, rtol=1e-6)
    np.testing.assert_allclose(mean[0, 1], (tables[1][4] + tables[1][1]) / 2, rtol=1e-6)
    assert np.array_equal(mean[1], np.stack([tables[0][1], np.zeros(4, np.float32)]))


@pytest.mark.parametrize("extra", [0, 1, 7])
def test_padding_of_lists_changes_nothing(extra: int) -> None:
    paddle.seed(0)
    layer = nn.BagEmbedding([6, 5], 4)
    ids, lengths = np.array([[[0, 2, 2], [4, 1, 0]], [[1, 0, 0], [0, 0, 0]]]), np.array([[3, 2], [1, 0]])
    padded = np.pad(ids, ((0, 0), (0, 0), (0, extra)), constant_values=10**9)

    def run(ids: np.ndarray) -> list[np.ndarray]:
        layer.clear_gradients()
        mean = layer(paddle.to_tensor(ids), paddle.to_tensor(lengths))
        (mean * paddle.to_tensor(rows(2, 2, 4))).sum().backward()
        return [mean.numpy(), *(p.grad.numpy() for p in layer.parameters())]

    for found, true in zip(run(padded), run(ids), strict=True):
        np.testing.assert_allclose(found, true, atol=1e-7)


def test_numbers() -> None:
    layer = nn.NumberScaling(3)
    data = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [np.nan, 5.0, np.nan]])
    layer.fit(data)
    assert layer.mean.numpy().tolist() == [2.0, 5.0, 0.0]
    assert layer.std.numpy().tolist() == [1.0, 1.0, 1.0]
    scaled, missing = layer(paddle.to_tensor(data.astype(np.float32)))
    assert scaled.numpy().tolist() == [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert np.array_equal(missing.numpy(), np.isnan(data))
    assert sorted(layer.state_dict()) == ["mean", "std"]
    large = 1e6 + rows(1000, 3).astype(np.float64)  # many digits before those that differ
    layer.fit(large)
    np.testing.assert_allclose(layer.std.numpy(), large.std(axis=0), rtol=1e-5)


MASK = np.array([[1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("mask", [None, MASK, np.zeros((2, 3), int)])
def test_dice(mask: np.ndarray | None) -> None:
    dice = nn.Dice(4)
    dice.alpha.set_value(rows(4, seed=2))
    counts = torch.tensor(np.ones((2, 3)) if mask is None else mask).double()[..., None]

    def statistics(x):
        total = counts.sum().clamp(min=1)
        mean = (x * counts).sum((0, 1)) / total
        return mean, ((x - mean) ** 2 * counts).sum((0, 1)) / total

    def gold(x, alpha):
        mean, variance = statistics(x)
        share = torch.sigmoid((x - mean) / (variance + 1e-8).sqrt())
        return ((share + (1 - share) * alpha) * x * counts).sum()

    def ours(x):
        return (
            dice(x, None if mask is None else paddle.to_tensor(mask))
            * paddle.to_tensor(counts.numpy()).astype("float32")
        ).sum()

    x = rows(2, 3, 4)
    agrees(ours, gold, {"x": x}, {"alpha": dice.alpha})
    mean, variance = statistics(torch.tensor(x).double())
    if mask is not None and not mask.any():
        mean, variance = torch.zeros(4), torch.ones(4)
    np.testing.assert_allclose(dice.mean.numpy(), 0.1 * mean.numpy(), atol=1e-6)
    np.testing.assert_allclose(dice.variance.numpy(), 0.9 + 0.1 * variance.numpy(), atol=1e-6)
    dice.eval()
    before = dice.mean.numpy().copy()
    share = 1 / (1 + np.exp(-(x - before) / np.sqrt(dice.variance.numpy() + 1e-8)))
    np.testing.assert_allclose(
        dice(paddle.to_tensor(x)).numpy(),
        (share + (1 - share) * dice.alpha.numpy()) * x,
        rtol=1e-5,
        atol=1e-6,
    )
    assert np.array_equal(dice.mean.numpy(), before)


def test_dice_learns_the_same_in_a_program() -> None:
    results = []
    for is_program in (False, True):
        paddle.seed(0)
        stack = nn.DenseStack(4, [8, 3], "dice")
        net = paddle.jit.to_static(stack, full_graph=True) if is_program else stack
        optimizer = paddle.optimizer.SGD(0.1, parameters=stack.parameters())
        for step in range(3):
            net(paddle.to_tensor(rows(5 + step, 4, seed=step))).square().mean().backward()
            optimizer.step()
            optimizer.clear_grad()
        results.append({name: value.numpy() for name, value in stack.state_dict().items()})
    assert not np.array_equal(results[0]["dice.0.mean"], np.zeros(8))
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, atol=1e-6, err_msg=name)


def test_errors() -> None:
    layer = nn.CategoryEmbedding([3, 5], 4)
    with pytest.raises(InvalidInputError, match=r"categories: column 1: expected ids in \[0, 5\), got 5"):
        layer(paddle.to_tensor([[0, 5]]))
    with pytest.raises(InvalidInputError, match=r"categories: column 0: expected ids in \[0, 3\), got -1"):
        layer(paddle.to_tensor([[-1, 0]]))
    with pytest.raises(InvalidInputError, match=r"categories: expected 2 columns .*, got shape \[1, 3\]"):
        layer(paddle.to_tensor([[0, 0, 0]]))
    with pytest.raises(InvalidDtypeError, match="categories: expected dtype int64 or int32, got float32"):
        layer(paddle.to_tensor([[0.0, 0.0]]))
    with pytest.raises(InvalidInputError, match=r"bag_lengths: expected shape \[1, 1\] .*, got \[1, 2\]"):
        nn.BagEmbedding([3], 4)(paddle.to_tensor([[[0, 1]]]), paddle.to_tensor([[2, 2]]))
    with pytest.raises(InvalidInputError, match=r"lengths\[0\]: expected a length in \[0, 2\], got 3"):
        nn.BagEmbedding([3], 4)(paddle.to_tensor([[[0, 1]]]), paddle.to_tensor([[3]]))
    with pytest.raises(InvalidInputError, match=r"numbers: expected \[rows, 3\] .*, got shape \[2, 2\]"):
        nn.NumberScaling(3).fit(np.zeros((2, 2)))
    with pytest.raises(InvalidInputError, match="with an infinity"):
        nn.NumberScaling(1).fit(np.array([[np.inf]]))
    with pytest.raises(
        InvalidInputError, match="numbers: expected None: the model has no such columns, got one"
    ):
        nn.TableFeatures([3])(paddle.to_tensor([[0]]), paddle.zeros([1, 1]))
    with pytest.raises(InvalidInputError, match="numbers: expected a tensor, got None"):
        nn.TableFeatures([3], 2)(paddle.to_tensor([[0]]))
    with pytest.raises(
        InvalidInputError, match="at least one column of categories, lists or numbers, got none"
    ):
        nn.TableFeatures([])
    with pytest.raises(InvalidInputError, match=r"activation: expected one of 'relu', .*, got 'tanh'"):
        nn.DenseStack(3, [4], "tanh")
