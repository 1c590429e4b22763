"""Losses of embeddings, against their formulas in PyTorch and float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from tests.nn.saved_program import LossOf, runs_alike
from tests.nn.torch_gold import agrees, rows, torch

F = torch.nn.functional
PAIRS = {"query": rows(6, 8), "positive": rows(6, 8, seed=1)}
TWO = {"first": rows(6, 8), "second": rows(6, 8, seed=1)}


def cosines(a, b):
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("shape", [None, (4, 8), (6, 3, 8)])
def test_contrastive(normalize: bool, symmetric: bool, learned: bool, shape: tuple[int, ...] | None) -> None:
    loss = nn.ContrastiveLoss(0.2, learned=learned, normalize=normalize, symmetric=symmetric)
    inputs = PAIRS if shape is None else PAIRS | {"negatives": rows(*shape, seed=2)}

    def gold(query, positive, negatives=None, log_scale=None):
        scale = 5.0 if log_scale is None else log_scale.exp()
        candidates = positive if negatives is None else torch.cat([positive, negatives.reshape(-1, 8)])
        similarity = cosines(query, candidates) if normalize else query @ candidates.T
        target = torch.arange(6)
        result = F.cross_entropy(scale * similarity, target)
        if symmetric:
            result = (result + F.cross_entropy(scale * similarity[:, :6].T, target)) / 2
        return result

    parameters = {"log_scale": loss.log_scale} if learned else {}
    agrees(loss, gold, inputs, parameters, rtol=2e-5)
    assert list(loss.state_dict()) == (["log_scale"] if learned else [])


def test_contrastive_scale_is_bounded() -> None:
    loss = nn.ContrastiveLoss(0.05, learned=True, normalize=False)
    loss.log_scale.set_value(np.array([9.0], np.float32))  # exp(9) > 100
    agrees(
        lambda **x: loss(**x),
        lambda query, positive: F.cross_entropy(100.0 * query @ positive.T, torch.arange(6)),
        {name: 0.1 * value for name, value in PAIRS.items()},
        rtol=2e-5,
    )
    assert not loss.log_scale.grad.numpy().any()


@pytest.mark.parametrize("has_negatives", [False, True])
@pytest.mark.parametrize("has_probability", [False, True])
def test_contrastive_counts_a_candidate_once(has_negatives: bool, has_probability: bool) -> None:
    """Candidates that are the same: as if each were there once, the partner of all its queries."""
    ids = np.array([7, -3, 7, 9, -3, 7])
    q = np.array([0.5, 0.2, 0.5, 0.1, 0.2, 0.5], np.float32)
    positive = PAIRS["positive"][[0, 1, 0, 3, 1, 0]]
    inputs = {"query": PAIRS["query"], "positive": positive}
    if has_negatives:
        inputs["negatives"] = rows(2, 8, seed=2)
    first, labels = [0, 1, 3], torch.tensor([0, 1, 0, 2, 1, 0])

    def gold(query, positive, negatives=None):
        candidates = positive[first] if negatives is None else torch.cat([positive[first], negatives])
        logits = cosines(query, candidates) / 0.1
        if has_probability:
            correction = torch.zeros(len(candidates), dtype=torch.float64)
            correction[:3] = torch.tensor(np.log(q[first]).astype(np.float64))
            logits = logits - correction
        return F.cross_entropy(logits, labels)

    options = {"ids": paddle.to_tensor(ids)}
    if has_probability:
        options["log_probability"] = paddle.to_tensor(np.log(q))
    agrees(lambda **x: nn.ContrastiveLoss(0.1)(**x, **options), gold, inputs, rtol=2e-5)


def test_contrastive_extremes() -> None:
    one = {name: value[:1] for name, value in PAIRS.items()}
    assert agrees(nn.ContrastiveLoss(), lambda query, positive: 0.0 * (query + positive).sum(), one) == 0.0
    zero = paddle.zeros([2, 4])
    zero.stop_gradient = False
    loss = nn.ContrastiveLoss()(zero, paddle.ones([2, 4]))
    loss.backward()
    assert np.isfinite(zero.grad.numpy()).all()
    assert float(loss) == pytest.approx(np.log(2))
    large = paddle.to_tensor(np.diag([1e4, 1e4]).astype(np.float32))
    assert float(nn.ContrastiveLoss(normalize=False)(large, large)) == 0.0
    assert float(nn.ContrastiveLoss(1.0, normalize=False)(large, large.flip([0]) / 1e4)) == pytest.approx(1e4)


def test_gathering_needs_no_second_process_but_dynamic_mode(tmp_path: Path) -> None:
    pair = [paddle.to_tensor(value) for value in PAIRS.values()]
    assert float(nn.ContrastiveLoss(gather=True)(*pair)) == float(nn.ContrastiveLoss()(*pair))
    program = paddle.jit.to_static(LossOf(nn.ContrastiveLoss(gather=True), "forward"), full_graph=True)
    with pytest.raises(UnsupportedError, match="gather=True: expected dynamic mode, got a static program"):
        program(*pair)


LABELS = np.array([0, 1, 0, 2, 1, 0])  # class 2 has no partner


@pytest.mark.parametrize(
    "labels", [LABELS, np.where(LABELS == 1, -100, LABELS), np.arange(6), np.zeros(6, int)]
)
def test_supervised_contrastive(labels: np.ndarray) -> None:
    def gold(features):
        total, count = 0.0 * features.sum(), 0
        kept = np.flatnonzero(labels != -100)
        similarity = cosines(features, features) / 0.1
        for i in kept:
            others = [a for a in kept if a != i]
            partners = [p for p in others if labels[p] == labels[i]]
            if partners:
                total = total + torch.logsumexp(similarity[i, others], 0) - similarity[i, partners].mean()
                count += 1
        return total / max(count, 1)

    agrees(
        lambda features: nn.SupervisedContrastiveLoss(0.1)(features, paddle.to_tensor(labels)),
        gold,
        {"features": rows(6, 8)},
        rtol=2e-5,
    )


def between(distance: str, a, b):
    if distance == "cosine":
        return 1 - (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(-1)
    squared = (a - b).square().sum(-1)
    return squared.sqrt() if distance == "euclidean" else squared


DISTANCES = pytest.mark.parametrize("distance", ["euclidean", "squared", "cosine"])
MARGINS = pytest.mark.parametrize("margin", [0.3, None])


def hinge(x, margin):
    return F.softplus(x) if margin is None else F.relu(x + margin)


@DISTANCES
@MARGINS
def test_triplets(distance: str, margin: float | None) -> None:
    def gold(anchor, positive, negative):
        return hinge(between(distance, anchor, positive) - between(distance, anchor, negative), margin).mean()

    names = ("anchor", "positive", "negative")
    inputs = {name: rows(6, 8, seed=seed) for seed, name in enumerate(names)}
    agrees(nn.TripletLoss(margin, distance=distance), gold, inputs)


@DISTANCES
@MARGINS
@pytest.mark.parametrize(
    "labels", [LABELS, np.where(LABELS == 1, -100, LABELS), np.arange(6), np.zeros(6, int)]
)
def test_batch_hard_triplets(distance: str, margin: float | None, labels: np.ndarray) -> None:
    def gold(features):
        total, count = 0.0 * features.sum(), 0
        kept = np.flatnonzero(labels != -100)
        for i in kept:
            same = [
                between(distance, features[i], features[j]) for j in kept if j != i and labels[j] == labels[i]
            ]
            other = [between(distance, features[i], features[j]) for j in kept if labels[j] != labels[i]]
            if same and other:
                total = total + hinge(torch.stack(same).max() - torch.stack(other).min(), margin)
                count += 1
        return total / max(count, 1)

    agrees(
        lambda features: nn.BatchHardTripletLoss(margin, distance=distance)(
            features, paddle.to_tensor(labels)
        ),
        gold,
        {"features": rows(6, 8)},
    )


def test_equal_rows_have_finite_gradients() -> None:
    x = paddle.ones([4, 3])
    x.stop_gradient = False
    loss = nn.BatchHardTripletLoss(0.5)(x, paddle.to_tensor([0, 0, 1, 1]))
    loss.backward()
    assert float(loss) == pytest.approx(0.5)
    assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("margin", [0.0, 0.4])
def test_cosine_embedding(margin: float) -> None:
    labels = np.array([1, -1, 1, -1, -1, 1])
    agrees(
        lambda **x: nn.CosineEmbeddingLoss(margin)(**x, labels=paddle.to_tensor(labels)),
        lambda first, second: F.cosine_embedding_loss(first, second, torch.tensor(labels), margin=margin),
        TWO,
    )


@pytest.mark.parametrize("labels", [[1, 0, 1, 0, 0, 1], [0.1, 0.9, 0.5, 0.5, 1.0, 0.0], [1, 1, 1, 1, 1, 1]])
def test_cosent(labels: list[float]) -> None:
    def gold(first, second):
        cosine = (F.normalize(first, dim=-1) * F.normalize(second, dim=-1)).sum(-1)
        terms = [torch.zeros((), dtype=torch.float64) * cosine[0]]
        terms += [(cosine[j] - cosine[i]) / 0.05 for i in range(6) for j in range(6) if labels[i] > labels[j]]
        return torch.logsumexp(torch.stack(terms), 0)

    agrees(lambda **x: nn.CoSENTLoss()(**x, labels=paddle.to_tensor(labels)), gold, TWO, rtol=2e-5)


SPEC = [([None, 8], "float32"), ([None, 8], "float32")]


@pytest.mark.parametrize("name", ["contrastive", "ids", "supervised", "hard", "cosent"])
def test_saved_with_a_dynamic_batch(name: str, tmp_path: Path) -> None:
    def batch(n: int) -> list[np.ndarray]:
        return [rows(n, 8), rows(n, 8, seed=1), np.arange(n) % 3]

    with_labels = [SPEC[0], ([None], "int64")]
    if name == "contrastive":
        layer = nn.ContrastiveLoss(0.1, learned=True, symmetric=True)
        runs_alike(LossOf(layer, "forward"), tmp_path, SPEC, *(batch(n)[:2] for n in (3, 1, 7)))
    elif name == "ids":

        class WithIds(paddle.nn.Layer):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.loss = paddle.nn.Linear(8, 8), nn.ContrastiveLoss(0.1)

            def forward(self, query, positive, ids):
                return self.loss(self.inner(query), positive, ids=ids)

        runs_alike(WithIds(), tmp_path, [*SPEC, with_labels[1]], *(batch(n) for n in (3, 1, 7)))
    elif name == "cosent":
        runs_alike(
            LossOf(nn.CoSENTLoss(), "forward"),
            tmp_path,
            [*SPEC, with_labels[1]],
            *(batch(n) for n in (3, 1, 7)),
        )
    else:
        layer = nn.SupervisedContrastiveLoss() if name == "supervised" else nn.BatchHardTripletLoss()
        runs_alike(LossOf(layer, "forward"), tmp_path, with_labels, *(batch(n)[::2] for n in (3, 1, 7)))


def test_errors() -> None:
    x = paddle.to_tensor(rows(3, 4))
    with pytest.raises(InvalidInputError, match=r"positive: expected shape \[3, 4\] .*, got \[3, 5\]"):
        nn.ContrastiveLoss()(x, paddle.zeros([3, 5]))
    with pytest.raises(InvalidInputError, match=r"negatives: expected shape \[-1, 4\] .*, got \[2, 5\]"):
        nn.ContrastiveLoss()(x, x, paddle.zeros([2, 5]))
    with pytest.raises(UnsupportedError, match="expected neither ids nor log_probability"):
        nn.ContrastiveLoss(symmetric=True)(x, x, ids=paddle.to_tensor([0, 1, 2]))
    with pytest.raises(
        InvalidInputError, match=r"temperature: expected at least 0.01 if it is learned, got 0.001"
    ):
        nn.ContrastiveLoss(0.001, learned=True)
    with pytest.raises(InvalidInputError, match=r"ids: expected shape \[3\] \(\[batch_size\]\), got \[2\]"):
        nn.ContrastiveLoss()(x, x, ids=paddle.to_tensor([0, 1]))
    with pytest.raises(InvalidDtypeError, match="labels: expected dtype int64 or int32, got float32"):
        nn.SupervisedContrastiveLoss()(x, paddle.zeros([3]))
    with pytest.raises(
        InvalidInputError, match="distance: expected one of 'euclidean', 'squared', 'cosine', got 'l1'"
    ):
        nn.TripletLoss(distance="l1")
    with pytest.raises(InvalidDtypeError, match=r"features: expected a paddle\.Tensor, got ndarray"):
        nn.BatchHardTripletLoss()(rows(3, 4), paddle.to_tensor([0, 1, 1]))
