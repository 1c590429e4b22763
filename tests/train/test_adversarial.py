"""Adversarial steps: the perturbation reaches the embedding, is right, and is undone bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError, NonFiniteLossError
from paddle_infra.train import FGM, PGD, Callback, Trainer
from tests.train.problem import assert_same_bits

WORDS, SIZE, CLASSES = 11, 6, 3


class Classifier(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.words = paddle.nn.Embedding(WORDS, SIZE)
        self.head = paddle.nn.Linear(SIZE, CLASSES)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        return self.head(paddle.tanh(self.words(ids).mean(axis=1)))


def step(model: paddle.nn.Layer, batch: Any) -> paddle.Tensor:
    return paddle.nn.functional.cross_entropy(model(batch["ids"]), batch["labels"])


def batches(sizes: tuple[int, ...] = (4, 4, 4)) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        {"ids": random.integers(WORDS, size=(size, 5)), "labels": random.integers(CLASSES, size=size)}
        for size in sizes
    ]


class Recorder(Callback):
    """Keeps gradients before the step."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, np.ndarray]] = []

    def on_gradients(self, trainer: Trainer) -> None:
        self.gradients.append({name: p.grad.numpy().copy() for name, p in trainer.model.named_parameters()})


class Watched:
    """A training step that notes the embeddings it was called with."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __call__(self, model: Any, batch: Any) -> paddle.Tensor:
        self.seen.append(model.words.weight.numpy().copy())
        return step(model, batch)


def model() -> Classifier:
    paddle.seed(3)
    return Classifier()


def gradients(training_step: Any, data: Any, accumulate: int = 1, rate: float = 0.0) -> dict[str, np.ndarray]:
    network, recorder = model(), Recorder()
    optimizer = paddle.optimizer.SGD(rate, parameters=network.parameters())
    before = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    trainer = Trainer(network, optimizer, training_step, callbacks=[recorder], accumulate=accumulate)
    trainer.fit(data, max_steps=1)
    # With a rate of 0 the step changes nothing, so whatever differs is what the attack left behind.
    assert_same_bits(before, {name: value.numpy() for name, value in network.state_dict().items()})
    return recorder.gradients[0]


def gradient_at(offset: np.ndarray | None, batch: Any, weight: float = 1.0) -> dict[str, np.ndarray]:
    """The gradient with the embeddings moved by hand."""
    network = model()
    if offset is not None:
        network.words.weight.set_value(network.words.weight.numpy() + offset)
    on_device = {key: paddle.to_tensor(value) for key, value in batch.items()}
    (step(network, on_device) * weight).backward()
    return {name: p.grad.numpy() for name, p in network.named_parameters()}


def test_fgm_adds_the_gradient_at_the_moved_embeddings() -> None:
    batch = batches((4,))[0]
    clean = gradient_at(None, batch)
    direction = clean["words.weight"] / np.linalg.norm(clean["words.weight"])
    attacked = gradient_at(0.5 * direction, batch)
    got = gradients(FGM(step, "words.weight", epsilon=0.5), [batch])
    for name in clean:
        np.testing.assert_allclose(got[name], clean[name] + attacked[name], atol=1e-6, err_msg=name)
        assert np.abs(attacked[name] - clean[name]).max() > 1e-4, "the attack would not be seen"


def test_pgd_walks_inside_the_ball() -> None:
    batch = batches((4,))[0]
    clean, offset = gradient_at(None, batch), np.zeros((WORDS, SIZE), np.float32)
    gradient = clean["words.weight"]
    for _ in range(3):
        offset = offset + 0.3 * gradient / np.linalg.norm(gradient)
        length = np.linalg.norm(offset)
        offset = offset * min(1.0, 0.5 / length)
        attacked = gradient_at(offset, batch)
        gradient = attacked["words.weight"]
    assert length > 0.5, "the projection would not be seen"
    watched = Watched()
    got = gradients(PGD(watched, "words.*", epsilon=0.5, step_size=0.3, steps=3), [batch])
    for name in clean:
        np.testing.assert_allclose(got[name], clean[name] + attacked[name], atol=1e-6, err_msg=name)
    lengths = [np.linalg.norm(seen - watched.seen[0]) for seen in watched.seen]
    assert lengths == pytest.approx([0.0, 0.3, 0.5, 0.5], abs=1e-5)


@pytest.mark.parametrize("attack", [FGM, PGD])
def test_every_micro_batch_is_attacked_by_its_own_gradient(attack: Any) -> None:
    """A window of two equals the weighted sum of two windows of one."""
    data = batches((4, 2))
    parts = [gradients(attack(step, "words.weight"), [batch]) for batch in data]
    got = gradients(attack(step, "words.weight"), data, accumulate=2)
    for name in got:
        expected = parts[0][name] * 4 / 6 + parts[1][name] * 2 / 6
        np.testing.assert_allclose(got[name], expected, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("attack", [FGM, PGD])
def test_the_attack_makes_the_loss_larger_and_training_works(attack: Any) -> None:
    losses: list[float] = []

    def watched(network: Any, batch: Any) -> paddle.Tensor:
        loss = step(network, batch)
        losses.append(float(loss))
        return loss

    network = model()
    optimizer = paddle.optimizer.Adam(0.05, parameters=network.parameters())
    data = batches()
    trainer = Trainer(network, optimizer, attack(watched, "words.weight", epsilon=0.3))
    state = trainer.fit(data, max_epochs=20)
    passes = len(losses) // state.step
    clean, attacked = losses[::passes], losses[passes - 1 :: passes]
    assert all(after > before for before, after in zip(clean, attacked, strict=True))
    assert clean[-1] < clean[0] / 2
    assert state.loss == pytest.approx(clean[-1], abs=1e-6)  # what is reported is the loss without the attack


def test_an_attack_that_is_not_finite_rejects_the_window_and_is_undone() -> None:
    calls: list[int] = []

    def fails_second(network: Any, batch: Any) -> paddle.Tensor:
        calls.append(1)
        loss = step(network, batch)
        return loss * math.nan if len(calls) == 2 else loss

    network = model()
    before = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    optimizer = paddle.optimizer.SGD(0.1, parameters=network.parameters())
    with pytest.raises(NonFiniteLossError, match="expected a finite loss, got nan"):
        Trainer(network, optimizer, FGM(fails_second, "words.weight")).fit(batches(), max_steps=1)
    assert_same_bits(before, {name: value.numpy() for name, value in network.state_dict().items()})


def test_an_error_in_the_attack_leaves_the_embeddings_as_they_were() -> None:
    calls: list[int] = []

    def breaks(network: Any, batch: Any) -> paddle.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("lost")
        return step(network, batch)

    network = model()
    before = network.words.weight.numpy().copy()
    optimizer = paddle.optimizer.SGD(0.1, parameters=network.parameters())
    with pytest.raises(KeyError):
        Trainer(network, optimizer, FGM(breaks, "words.weight")).fit(batches(), max_steps=1)
    assert network.words.weight.numpy().tobytes() == before.tobytes()


def test_arguments_are_checked() -> None:
    with pytest.raises(InvalidInputError, match="epsilon: expected a positive number, got 0"):
        FGM(step, "words.weight", epsilon=0)
    with pytest.raises(InvalidInputError, match="step_size: expected a positive number, got nan"):
        PGD(step, "words.weight", step_size=math.nan)
    with pytest.raises(InvalidInputError, match="steps: expected 1 or more, got 0"):
        PGD(step, "words.weight", steps=0)
    with pytest.raises(InvalidInputError, match=r"'\*weight' fits \['words.weight', 'head.weight'\]"):
        gradients(FGM(step, "*weight"), batches())
    with pytest.raises(InvalidInputError, match="'embed' fits none of"):
        gradients(FGM(step, "embed"), batches())

    def without_words(network: Any, batch: Any) -> paddle.Tensor:
        return (network.head.weight**2).mean()

    with pytest.raises(InvalidInputError, match=r"a loss that depends on 'words.weight', got no gradient"):
        gradients(FGM(without_words, "words.weight"), batches())
