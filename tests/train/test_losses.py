"""Label smoothing, R-Drop and mixup against their formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from scipy.special import log_softmax

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import CrossEntropy, Mixup, RDrop
from tests.train.problem import SeekableLoader, assert_same_bits, make_trainer, mlp, tensors

RANDOM = np.random.default_rng(0)
LABELS = np.array([[0, 3, -100], [2, -100, 1]])
LOGITS = RANDOM.normal(size=(2, 3, 4)).astype("float32") * 3


def log_p(logits: np.ndarray) -> np.ndarray:
    """Rows of the valid labels, float64."""
    return log_softmax(logits.astype("float64"), axis=-1)[LABELS != -100]


def cross_entropy(logits: np.ndarray, smoothing: float, labels: np.ndarray = LABELS) -> float:
    gold = np.full((4, 4), smoothing / 4)
    gold[np.arange(4), labels[labels != -100]] += 1 - smoothing
    return float(-(gold * log_p(logits)).sum(-1).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_with_smoothing(smoothing: float) -> None:
    loss = CrossEntropy(smoothing)(paddle.to_tensor(LOGITS), {"labels": paddle.to_tensor(LABELS)})
    assert float(loss) == pytest.approx(cross_entropy(LOGITS, smoothing), rel=1e-6)


def test_r_drop() -> None:
    passes = [LOGITS, RANDOM.normal(size=LOGITS.shape).astype("float32")]
    given = iter(passes)
    step = RDrop(lambda model, batch: paddle.to_tensor(next(given)), CrossEntropy(0.1), alpha=0.7)
    loss = step(paddle.nn.Identity(), {"labels": paddle.to_tensor(LABELS)})
    p, q = map(log_p, passes)
    divergence = ((np.exp(p) * (p - q)).sum(-1) + (np.exp(q) * (q - p)).sum(-1)).mean() / 2
    both = (cross_entropy(passes[0], 0.1) + cross_entropy(passes[1], 0.1)) / 2
    assert float(loss) == pytest.approx(both + 0.7 * divergence, rel=1e-5)


def test_r_drop_without_dropout_is_the_plain_loss() -> None:
    def logits(model: Any, batch: Any) -> paddle.Tensor:
        return model(batch["points"])

    plain = make_trainer(
        model=mlp(0.0), training_step=lambda model, batch: CrossEntropy()(logits(model, batch), batch)
    )
    twice = make_trainer(model=mlp(0.0), training_step=RDrop(logits, alpha=5.0))
    twice.model.set_state_dict(plain.model.state_dict())
    for trainer in (plain, twice):
        trainer.fit(SeekableLoader(), max_steps=5)
    left, right = tensors(plain), tensors(twice)
    for name in left:
        np.testing.assert_allclose(left[name], right[name], atol=1e-5, err_msg=name)


def mixed_batch() -> dict[str, Any]:
    return {
        "points": paddle.to_tensor(RANDOM.normal(size=(5, 64)).astype("float32")),
        "labels": paddle.to_tensor(np.array([0, 1, 2, -100, 4])),
    }


@pytest.mark.parametrize("where", ["inputs", "layer"])
def test_mixup(where: str) -> None:
    paddle.seed(1)
    model, batch = mlp(0.0), mixed_batch()

    def logits(model: Any, batch: Any) -> paddle.Tensor:
        return model(batch["points"])

    step = Mixup(logits, alpha=0.4, **({"inputs": ["points"]} if where == "inputs" else {"layer": "0"}))
    np.random.seed(3)
    loss = float(step(model, batch))
    np.random.seed(3)
    share, order = np.random.beta(0.4, 0.4), np.random.permutation(5)
    assert 0.01 < share < 0.99
    points = batch["points"].numpy()
    points = share * points + (1 - share) * points[order]  # mixing before or after a linear layer is the same
    outputs = model(paddle.to_tensor(points.astype("float32")))
    labels = batch["labels"].numpy()
    parts = [
        float(CrossEntropy()(outputs, {"labels": paddle.to_tensor(each)})) for each in (labels, labels[order])
    ]
    assert loss == pytest.approx(share * parts[0] + (1 - share) * parts[1], rel=1e-5)
    plain = model(batch["points"])  # no hook is left
    np.testing.assert_allclose(plain.numpy(), mlp_again(model, batch), rtol=0)


def mlp_again(model: paddle.nn.Layer, batch: dict[str, Any]) -> np.ndarray:
    fresh = mlp(0.0)
    fresh.set_state_dict(model.state_dict())
    return fresh(batch["points"]).numpy()


def test_mixup_draws_the_same_after_a_resume(tmp_path: Any) -> None:
    from paddle_infra.train import Checkpoint

    def trainer(folder: str, seed: int = 0) -> Any:
        step = Mixup(lambda model, batch: model(batch["points"]), inputs=["points"])
        return make_trainer([Checkpoint(tmp_path / folder)], training_step=step, seed=seed)

    whole = trainer("whole")
    whole.fit(SeekableLoader(), max_steps=7)
    trainer("part").fit(SeekableLoader(), max_steps=3)
    rest = trainer("part", seed=9)
    rest.fit(SeekableLoader(), max_steps=7, resume="latest")
    assert_same_bits(tensors(whole), tensors(rest))


def test_arguments_are_checked() -> None:
    with pytest.raises(
        InvalidInputError, match="label_smoothing: expected a number from 0 to below 1, got 1"
    ):
        CrossEntropy(1)
    with pytest.raises(InvalidInputError, match="alpha: expected 0 or more, got -1"):
        RDrop(lambda model, batch: None, alpha=-1)
    with pytest.raises(InvalidInputError, match=r"expected inputs or a layer, got .* and None"):
        Mixup(lambda model, batch: None)
    with pytest.raises(InvalidInputError, match="alpha: expected a positive number, got 0"):
        Mixup(lambda model, batch: None, inputs=["x"], alpha=0)
    with pytest.raises(InvalidInputError, match=r"floating-point input 'labels', got paddle.int64"):
        Mixup(lambda model, batch: None, inputs=["labels"])(mlp(), mixed_batch())
    with pytest.raises(InvalidInputError, match=r"layer: expected one of \['0', .*'4'\], got 'embeddings'"):
        Mixup(lambda model, batch: None, layer="embeddings")(mlp(), mixed_batch())
    with pytest.raises(InvalidInputError, match=r"expected logits of shape \[5, 'classes'\], got \[4, 2\]"):
        CrossEntropy()(paddle.zeros([4, 2]), mixed_batch())
