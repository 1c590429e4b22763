"""Focal, multi-label, regression and ordinal heads, against PyTorch's formulas in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from tests.nn.saved_program import LossOf, runs_alike
from tests.nn.torch_gold import agrees, rows, torch

F = torch.nn.functional
IGNORED = np.array([[0, 2, -100], [-100, 1, 0]])


def linear(head: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    return {"weight": head.classifier.weight, "bias": head.classifier.bias}


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal(gamma: float) -> None:
    paddle.seed(0)
    head = nn.FocalClassificationHead(8, 4, 0.0, gamma=gamma)

    def gold(hidden, weight, bias):
        target = torch.tensor(IGNORED).flatten()
        kept = target != -100
        log_prob = torch.log_softmax(hidden @ weight + bias, -1).flatten(0, 1)[kept]
        log_prob = log_prob.gather(1, target[kept][:, None])
        return (-((1 - log_prob.exp()) ** gamma) * log_prob).mean()

    agrees(
        lambda hidden: head.loss(hidden, paddle.to_tensor(IGNORED)),
        gold,
        {"hidden": rows(2, 3, 8)},
        linear(head),
    )


@pytest.mark.parametrize(
    "cls", [nn.SequenceClassificationHead, nn.FocalClassificationHead, nn.MultiLabelHead]
)
def test_topk_is_that_of_the_logits(cls: type) -> None:
    paddle.seed(0)
    head, x = cls(8, 50, 0.0), paddle.to_tensor(rows(5, 8))
    logits = head(x)
    prob = (paddle.nn.functional.sigmoid if cls is nn.MultiLabelHead else paddle.nn.functional.softmax)(
        logits
    )
    found, index = head.topk(x, 3)
    assert np.array_equal(index.numpy(), np.argsort(-logits.numpy(), axis=1)[:, :3])
    np.testing.assert_allclose(found.numpy(), -np.sort(-prob.numpy(), axis=1)[:, :3], rtol=1e-5)
    assert found.stop_gradient


def test_topk_of_coarse_classes() -> None:
    paddle.seed(0)
    head = nn.SequenceClassificationHead(8, 5, 0.0, groups=[0, 1, 2, 1, 0])
    x = paddle.to_tensor(rows(4, 8))
    prob, index = head.topk(x, 2)
    coarse = paddle.nn.functional.softmax(head(x)).numpy()
    assert np.array_equal(index.numpy(), np.argsort(-coarse, axis=1)[:, :2])
    np.testing.assert_allclose(prob.numpy(), -np.sort(-coarse, axis=1)[:, :2], rtol=1e-6)


def spread(mask: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """A mask of rows or numbers as one of numbers; None as one that lets all count."""
    mask = np.ones(shape) if mask is None else mask
    return np.broadcast_to((mask[..., None] if mask.ndim < len(shape) else mask) != 0, shape)


LABELS = (rows(2, 3, 4, seed=3) > 0.5).astype(np.float32)
ROW_MASK = np.array([[1, 1, 1], [1, 0, 0]])
LABEL_MASK = rows(2, 3, 4, seed=4) > 0


@pytest.mark.parametrize("pos_weight", [None, [1.0, 2.0, 0.5, 7.0]])
@pytest.mark.parametrize(
    "mask", [None, ROW_MASK, LABEL_MASK, np.zeros((2, 3), bool), np.zeros((2, 3, 4), bool)]
)
def test_multi_label(pos_weight: list[float] | None, mask: np.ndarray | None) -> None:
    paddle.seed(0)
    head = nn.MultiLabelHead(8, 4, 0.0, pos_weight=pos_weight)
    counts = spread(mask, (2, 3, 4))
    labels = np.where(counts, LABELS, -7.0).astype(np.float32)  # anything where the mask is 0

    def gold(hidden, weight, bias):
        q = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float64)
        logits = hidden @ weight + bias
        loss = F.binary_cross_entropy_with_logits(
            logits, torch.tensor(LABELS).double(), pos_weight=q, reduction="none"
        )
        kept = torch.tensor(np.array(counts))
        return torch.where(kept, loss, 0.0).sum() / kept.sum().clamp(min=1)

    agrees(
        lambda hidden: head.loss(
            hidden, paddle.to_tensor(labels), mask=None if mask is None else paddle.to_tensor(mask)
        ),
        gold,
        {"hidden": rows(2, 3, 8)},
        linear(head),
    )


def test_multi_label_predictions() -> None:
    head = nn.MultiLabelHead(2, 2, 0.0)
    head.classifier.weight.set_value(np.eye(2, dtype=np.float32))
    assert head.predict(paddle.to_tensor([[1.0, -1.0], [0.5, 2.0]])).numpy().tolist() == [
        [True, False],
        [True, True],
    ]
    assert head.predict(paddle.to_tensor([[1.0, 2.0]]), 0.8).numpy().tolist() == [[False, True]]


TARGETS = rows(2, 3, 2, seed=5, scale=3.0)
NUMBER_MASK = rows(2, 3, 2, seed=6) > 0


@pytest.mark.parametrize("kind", ["squared", "huber", "quantile"])
@pytest.mark.parametrize("mask", [None, ROW_MASK, NUMBER_MASK, np.zeros((2, 3), bool)])
def test_regression(kind: str, mask: np.ndarray | None) -> None:
    paddle.seed(0)
    quantiles = (0.1, 0.5, 0.9) if kind == "quantile" else ()
    head = nn.RegressionHead(8, 2, 0.0, loss=kind, delta=0.7, quantiles=quantiles)
    counts = spread(mask, (2, 3, 2))
    labels = np.where(counts, TARGETS, np.nan).astype(np.float32)

    def gold(hidden, weight, bias):
        predicted, true = hidden @ weight + bias, torch.tensor(TARGETS).double()
        if kind == "quantile":
            residual = predicted.unflatten(-1, (2, 3)) - true[..., None]
            q = torch.tensor(quantiles, dtype=torch.float64)
            loss = torch.maximum(-q * residual, (1 - q) * residual).mean(-1)
        elif kind == "huber":
            loss = F.huber_loss(predicted, true, delta=0.7, reduction="none")
        else:
            loss = F.mse_loss(predicted, true, reduction="none")
        kept = torch.tensor(counts)
        return torch.where(kept, loss, 0.0).sum() / kept.sum().clamp(min=1)

    agrees(
        lambda hidden: head.loss(
            hidden, paddle.to_tensor(labels), mask=None if mask is None else paddle.to_tensor(mask)
        ),
        gold,
        {"hidden": rows(2, 3, 8)},
        linear(head),
    )
    assert head(paddle.to_tensor(rows(5, 8))).shape == ([5, 2, 3] if quantiles else [5, 2])


@pytest.mark.parametrize("cls", [nn.MultiLabelHead, nn.RegressionHead])
@pytest.mark.parametrize("extra", [0, 1, 7])
def test_padding_changes_nothing(cls: type, extra: int) -> None:
    paddle.seed(0)
    head, labels = cls(8, 4, 0.0), (rows(2, 3, 4, seed=1) > 0).astype(np.float32)

    def run(hidden: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
        head.clear_gradients()
        x = paddle.to_tensor(hidden, stop_gradient=False)
        loss = head.loss(x, paddle.to_tensor(labels), mask=paddle.to_tensor(mask))
        loss.backward()
        return [loss.numpy(), x.grad.numpy()[:, :3], head.classifier.weight.grad.numpy()]

    hidden, wide = rows(2, 3, 8), ((0, 0), (0, extra), (0, 0))
    padded = [np.pad(value, wide, constant_values=np.nan) for value in (hidden, labels)]
    for value in padded:
        value[1, 1:] = np.nan
    expected = run(hidden, labels, ROW_MASK)
    for found, true in zip(run(*padded, np.pad(ROW_MASK, wide[:2])), expected, strict=True):
        np.testing.assert_allclose(found, true, atol=1e-6)


def test_huber_of_large_residuals_is_linear() -> None:
    head = nn.RegressionHead(1, 1, 0.0, loss="huber")
    head.classifier.weight.set_value(np.ones((1, 1), np.float32))
    x = paddle.to_tensor([[1e30]], stop_gradient=False)
    loss = head.loss(x, paddle.to_tensor([[0.0]]))
    loss.backward()
    assert float(loss) == np.float32(1e30)
    assert float(x.grad[0, 0]) == 1.0


def ordinal_parameters(head: nn.OrdinalHead) -> dict[str, paddle.Tensor]:
    found = {"weight": head.score.weight, "bias": head.bias}
    return found | ({"steps": head.steps} if getattr(head, "steps", None) is not None else {})


@pytest.mark.parametrize("link", ["coral", "cumulative"])
@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_ordinal(link: str, num_classes: int, scale: float) -> None:
    paddle.seed(0)
    head = nn.OrdinalHead(8, num_classes, 0.0, link=link)
    labels = np.where(IGNORED < 0, -100, IGNORED % num_classes)
    labels[1, 2] = num_classes - 1

    def gold(hidden, weight, bias, steps=None):
        if steps is not None:
            bias = torch.cat([bias, bias - torch.cumsum(F.softplus(steps), 0)])
        logits = (hidden @ weight + bias).flatten(0, 1)
        target = torch.tensor(labels).flatten()
        logits, target = logits[target != -100], target[target != -100]
        if link == "coral":
            above = (target[:, None] > torch.arange(num_classes - 1)).double()
            return F.binary_cross_entropy_with_logits(logits, above, reduction="none").sum(-1).mean()
        above = torch.cat([torch.ones(len(target), 1), logits.sigmoid(), torch.zeros(len(target), 1)], -1)
        return -(above[:, :-1] - above[:, 1:]).gather(1, target[:, None]).log().mean()

    agrees(
        lambda hidden: head.loss(hidden, paddle.to_tensor(labels)),
        gold,
        {"hidden": rows(2, 3, 8, scale=scale)},
        ordinal_parameters(head),
    )


@pytest.mark.parametrize("link", ["coral", "cumulative"])
def test_ordinal_logits_of_1e4(link: str) -> None:
    head = nn.OrdinalHead(1, 4, 0.0, link=link)
    head.score.weight.set_value(np.ones((1, 1), np.float32))
    x = paddle.to_tensor([[1e4], [-1e4], [1e4], [-1e4]], stop_gradient=False)
    loss = head.loss(x, paddle.to_tensor([3, 0, 1, 1]))
    loss.backward()
    # 1e4 too high for class 1 of 4: two thresholds to cross with "coral", one interval to reach with "cumulative".
    assert float(loss) == pytest.approx((2e4 + 1e4) / 4 if link == "coral" else 2e4 / 4, rel=1e-3)
    assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("link", ["coral", "cumulative"])
def test_ordinal_predictions(link: str) -> None:
    paddle.seed(0)
    head = nn.OrdinalHead(4, 5, 0.0, link=link)
    x = paddle.to_tensor(rows(6, 4, scale=3.0))
    prob = head.probabilities(x).numpy()
    np.testing.assert_allclose(prob.sum(-1), 1.0, rtol=1e-5)
    assert head(x).shape == [6, 4]
    # Thresholds are 1 apart, symmetric around 0, in the beginning.
    np.testing.assert_allclose(head._biases().numpy(), [1.5, 0.5, -0.5, -1.5], atol=1e-6)
    score = head.score(x).numpy()[:, 0]
    assert head.predict(x).numpy().tolist() == [
        int((s + np.array([1.5, 0.5, -0.5, -1.5]) > 0).sum()) for s in score
    ]


HEADS = {
    "focal": lambda: nn.FocalClassificationHead(8, 4, 0.0),
    "multi": lambda: nn.MultiLabelHead(8, 4, 0.0, pos_weight=[1.0, 2.0, 3.0, 4.0]),
    "regression": lambda: nn.RegressionHead(8, 4, 0.0, loss="huber"),
    "quantile": lambda: nn.RegressionHead(8, 4, 0.0, loss="quantile", quantiles=(0.5, 0.9)),
    "coral": lambda: nn.OrdinalHead(8, 4, 0.0),
    "cumulative": lambda: nn.OrdinalHead(8, 4, 0.0, link="cumulative"),
}


def labels_for(kind: str, size: int) -> np.ndarray:
    if kind in ("multi", "regression", "quantile"):
        return (rows(size, 4, seed=size) > 0).astype(np.float32)
    return np.arange(size) % 4


@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize("is_loss", [True, False], ids=["loss", "forward"])
def test_saved_with_a_dynamic_batch(kind: str, is_loss: bool, tmp_path: Path) -> None:
    head = HEADS[kind]()
    if not is_loss:
        runs_alike(head, tmp_path, [([None, 8], "float32")], [rows(3, 8)], [rows(1, 8)], [rows(7, 8)])
        return
    label = labels_for(kind, 2)
    spec = ([None, *label.shape[1:]], str(label.dtype))
    runs_alike(
        LossOf(head),
        tmp_path,
        [([None, 8], "float32"), spec],
        *([rows(n, 8), labels_for(kind, n)] for n in (3, 1, 7)),
    )


class MaskedLoss(paddle.nn.Layer):
    def __init__(self, head: paddle.nn.Layer) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden, labels, mask):
        return self.head.loss(hidden, labels, mask=mask)


@pytest.mark.parametrize("kind", ["multi", "quantile"])
@pytest.mark.parametrize("is_per_row", [True, False])
def test_masked_loss_saved_with_dynamic_axes(kind: str, is_per_row: bool, tmp_path: Path) -> None:
    shape = [None, None] if is_per_row else [None, None, 4]
    specs = [([None, None, 8], "float32"), ([None, None, 4], "float32"), (shape, "int64")]

    def batch(size: int, length: int) -> list[np.ndarray]:
        mask = rows(size, length, seed=1) if is_per_row else rows(size, length, 4, seed=1)
        labels = (rows(size, length, 4, seed=2) > 0).astype(np.float32)
        return [rows(size, length, 8), labels, (mask > 0).astype(np.int64)]

    runs_alike(MaskedLoss(HEADS[kind]()), tmp_path, specs, batch(2, 3), batch(1, 1), batch(3, 7))


def test_parameter_names() -> None:
    names = {kind: list(make().state_dict()) for kind, make in HEADS.items()}
    classifier = ["classifier.weight", "classifier.bias"]
    assert names == {
        "focal": classifier,
        "multi": classifier,
        "regression": classifier,
        "quantile": classifier,
        "coral": ["bias", "score.weight"],
        "cumulative": ["bias", "steps", "score.weight"],
    }


ERRORS = [
    (
        lambda x: nn.MultiLabelHead(8, 4, pos_weight=[1.0]),
        "pos_weight: expected 4 positive numbers, got [1.0]",
    ),
    (
        lambda x: nn.MultiLabelHead(8, 4).loss(x, paddle.zeros([3, 5])),
        "labels: expected shape [3, 4] ([..., num_classes]), got [3, 5]",
    ),
    (
        lambda x: nn.MultiLabelHead(8, 4).loss(x, paddle.full([3, 4], 2.0)),
        "expected a number in [0, 1]",
    ),
    (
        lambda x: nn.MultiLabelHead(8, 4).loss(x, paddle.zeros([3, 4]), mask=paddle.ones([2], "int64")),
        "mask: expected shape [3] ([...] or [..., num_classes]), got [2]",
    ),
    (
        lambda x: nn.MultiLabelHead(9, 4).loss(x, paddle.zeros([3, 4])),
        "hidden: expected shape [..., 9] ([..., hidden_size]), got [3, 8]",
    ),
    (
        lambda x: nn.RegressionHead(8).loss(x, paddle.zeros([3])),
        "labels: expected shape [3, 1] ([..., num_targets]), got [3]",
    ),
    (
        lambda x: nn.RegressionHead(8, quantiles=[0.5]),
        "and none otherwise, got [0.5] with loss='squared'",
    ),
    (
        lambda x: nn.RegressionHead(8, loss="quantile", quantiles=[0.9, 0.5]),
        "expected ascending numbers between 0 and 1",
    ),
    (
        lambda x: nn.RegressionHead(8, loss="absolute"),
        "loss: expected one of 'squared', 'huber', 'quantile', got 'absolute'",
    ),
    (
        lambda x: nn.OrdinalHead(8, 1),
        "num_classes: expected an integer of at least 2, got 1",
    ),
    (
        lambda x: nn.OrdinalHead(8, 4).loss(x, paddle.to_tensor([0, 4, 1])),
        "or a class in [0, 4), got 4",
    ),
    (
        lambda x: nn.FocalClassificationHead(8, 4, gamma=-1.0),
        "gamma: expected a finite number in [0, inf], got -1.0",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors(call: Callable[[paddle.Tensor], object], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call(paddle.to_tensor(rows(3, 8)))
    assert message in str(caught.value)


def test_labels_of_another_dtype() -> None:
    with pytest.raises(InvalidDtypeError, match=r"labels: expected dtype float32 or .*, got int64"):
        nn.MultiLabelHead(8, 4).loss(paddle.to_tensor(rows(3, 8)), paddle.zeros([3, 4], "int64"))
