from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from tests.nn.saved_program import LossOf, runs_alike
from tests.nn.torch_gold import agrees, rows, torch

MARGINS = pytest.mark.parametrize("margin", ["arcface", "cosface"])


def gold_of(margin: str, scale: float, size: float, labels: np.ndarray):
    """The definition, with all logits stored."""

    def gold(hidden, weight):
        kept = torch.tensor(labels != -100)
        target = torch.tensor(labels)[kept]
        unit = torch.nn.functional.normalize
        cosine = (unit(hidden, dim=-1) @ unit(weight, dim=-1).T)[kept]
        own = cosine.gather(1, target[:, None])
        if margin == "cosface":
            moved = own - size
        else:
            sine = (1 - own**2).sqrt()
            moved = own * math.cos(size) - sine * math.sin(size)
            moved = torch.where(own > -math.cos(size), moved, own - size * math.sin(size))
        logits = scale * cosine.scatter(1, target[:, None], moved)
        return torch.nn.functional.cross_entropy(logits, target)

    return gold


@MARGINS
@pytest.mark.parametrize("labels", [[3, 0, 3, 11, 0, 5], [7] * 6, [0, -100, 0, -100, 12, 1]])
@pytest.mark.parametrize("scale", [1.0, 16.0, 64.0])
def test_loss_is_that_of_stored_logits(margin: str, labels: list[int], scale: float) -> None:
    paddle.seed(0)
    head, labels = nn.MarginHead(8, 13, margin=margin, scale=scale), np.array(labels)
    gold = gold_of(margin, scale, head.size, labels)
    agrees(
        lambda hidden: head.loss(hidden, paddle.to_tensor(labels)),
        gold,
        {"hidden": rows(6, 8)},
        {"weight": head.weight},
        rtol=2e-5,
    )


@pytest.mark.parametrize(("margin", "size"), [("arcface", 1.5), ("cosface", 1.0)])
def test_rows_that_are_learned_keep_their_digits(margin: str, size: float) -> None:
    """Without the margin the label's probability is 1 - 1e-25: what is beside it could not be found from there."""
    head = nn.MarginHead(4, 4, margin=margin, scale=64.0, size=size)
    head.weight.set_value(np.eye(4, dtype=np.float32))
    hidden = np.eye(4, dtype=np.float32)[[0, 1, 2]] + 0.05 * rows(3, 4)
    labels = np.array([0, 1, 2])
    loss = agrees(
        lambda hidden: head.loss(hidden, paddle.to_tensor(labels)),
        gold_of(margin, 64.0, size, labels),
        {"hidden": hidden},
        {"weight": head.weight},
        rtol=1e-4,
    )
    assert 0.1 < loss < 100


@pytest.mark.parametrize("labels", [[0, 1, 2, 1], [2, 2, 2, 2]])
def test_all_classes_or_one_in_a_batch(labels: list[int]) -> None:
    paddle.seed(1)
    head = nn.MarginHead(8, 3, scale=20.0)
    agrees(
        lambda hidden: head.loss(hidden, paddle.to_tensor(labels)),
        gold_of("arcface", 20.0, 0.5, np.array(labels)),
        {"hidden": rows(4, 8)},
        {"weight": head.weight},
    )


def test_a_batch_of_one_and_opposite_vectors() -> None:
    head = nn.MarginHead(2, 3, scale=10.0)
    head.weight.set_value(np.array([[1, 0], [0, 1], [-1, 0.1]], np.float32))
    # The angle to the label is beyond pi - m.
    agrees(
        lambda hidden: head.loss(hidden, paddle.to_tensor([0])),
        gold_of("arcface", 10.0, 0.5, np.array([0])),
        {"hidden": np.array([[-5.0, 0.3]], np.float32)},
        {"weight": head.weight},
    )
    for hidden in ([[3.0, 0.0]], [[-3.0, 0.0]], [[0.0, 0.0]], [[1e4, -1e4]]):
        x = paddle.to_tensor(hidden, stop_gradient=False)
        loss = head.loss(x, paddle.to_tensor([0]))
        loss.backward()
        assert np.isfinite(loss.numpy())
        assert np.isfinite(x.grad.numpy()).all()
        assert np.isfinite(head.weight.grad.numpy()).all()


def test_nothing_counts() -> None:
    head = nn.MarginHead(4, 3)
    x = paddle.to_tensor(rows(2, 4), stop_gradient=False)
    loss = head.loss(x, paddle.to_tensor([-100, -100]))
    loss.backward()
    assert float(loss) == 0.0
    assert not x.grad.numpy().any()
    assert not head.weight.grad.numpy().any()


def test_logits_and_topk_have_no_margin() -> None:
    paddle.seed(0)
    head, x = nn.MarginHead(4, 6, scale=5.0), paddle.to_tensor(rows(3, 4))
    cosine = rows(3, 4) @ head.weight.numpy().T
    cosine /= np.linalg.norm(rows(3, 4), axis=1)[:, None] * np.linalg.norm(head.weight.numpy(), axis=1)
    np.testing.assert_allclose(head(x).numpy(), 5.0 * cosine, atol=1e-5)
    prob, index = head.topk(x, 2)
    assert np.array_equal(index.numpy(), np.argsort(-cosine, axis=1)[:, :2])
    exp = np.exp(5.0 * cosine)
    np.testing.assert_allclose(
        prob.numpy(), -np.sort(-exp / exp.sum(1, keepdims=True), axis=1)[:, :2], rtol=1e-5
    )


def test_saved_with_a_dynamic_batch(tmp_path: Path) -> None:
    paddle.seed(0)
    batches = [[rows(n, 8, seed=n), np.arange(n) * 5 % 13] for n in (6, 1, 9)]
    specs = [([None, 8], "float32"), ([None], "int64")]
    runs_alike(LossOf(nn.MarginHead(8, 13)), tmp_path, specs, *batches)


def test_names_and_errors() -> None:
    head = nn.MarginHead(4, 3)
    assert list(head.state_dict()) == ["weight"]
    x = paddle.to_tensor(rows(2, 4))
    with pytest.raises(
        InvalidInputError, match=r"labels: expected ignore_index \(-100\) or a class in \[0, 3\), got 3"
    ):
        head.loss(x, paddle.to_tensor([0, 3]))
    with pytest.raises(InvalidInputError, match=r"labels: expected shape \[2\] .*, got \[3\]"):
        head.loss(x, paddle.to_tensor([0, 1, 1]))
    with pytest.raises(InvalidInputError, match=r"hidden: expected shape \[-1, 4\] .*, got \[2, 1, 4\]"):
        head.loss(x.unsqueeze(1), paddle.to_tensor([0, 1]))
    with pytest.raises(InvalidDtypeError, match="labels: expected dtype int64 or int32, got float32"):
        head.loss(x, paddle.to_tensor([0.0, 1.0]))
    with pytest.raises(InvalidInputError, match="margin: expected one of 'arcface', 'cosface', got 'sphere'"):
        nn.MarginHead(4, 3, margin="sphere")
    with pytest.raises(InvalidInputError, match=r"size: expected a finite number in \[0, 1.5708\], got 2"):
        nn.MarginHead(4, 3, size=2)
