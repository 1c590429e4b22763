from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import F1, Accuracy, Callback, Evaluator, MeanLoss, Trainer, get_rng_state
from tests.train.problem import (
    CLASSES,
    SeekableLoader,
    assert_same_bits,
    evaluation_step,
    evaluator,
    make_trainer,
    mean_loss,
    tensors,
)


def test_batches_give_what_one_large_batch_gives() -> None:
    trainer = make_trainer()
    parts = list(SeekableLoader())
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    values = trainer.evaluate(parts)
    assert values == pytest.approx(trainer.evaluate([whole]), abs=1e-6)
    trainer.model.eval()
    logits = trainer.model(paddle.to_tensor(whole["points"]))
    assert values["loss"] == pytest.approx(
        float(mean_loss(logits, paddle.to_tensor(whole["labels"]))), abs=1e-6
    )
    valid = whole["labels"] != -100
    assert values["accuracy"] == (logits.numpy().argmax(-1) == whole["labels"])[valid].mean()


def test_evaluations_are_independent() -> None:
    trainer = make_trainer()
    first = trainer.evaluate(SeekableLoader())
    trainer.evaluate(list(SeekableLoader())[:1])
    assert trainer.evaluate(SeekableLoader()) == first


def rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_flat_over_many_batches() -> None:
    """Keeping the logits of the 1500 measured batches would take 300 MB."""
    points = np.zeros((512, 64), np.float32)
    batch = {"points": points, "labels": np.zeros(512, np.int64)}
    measured: list[int] = []

    def loader() -> Iterator[Any]:
        for index in range(1700):
            if index in (200, 1699):
                gc.collect()
                measured.append(rss_bytes())
            yield batch

    model = paddle.nn.Linear(64, 100)
    metrics = [MeanLoss(), Accuracy(100), F1(100)]
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    Trainer(model, optimizer, mean_loss, evaluator=Evaluator(evaluation_step, metrics)).evaluate(loader())
    assert measured[1] - measured[0] < 20e6


def test_bad_evaluators() -> None:
    with pytest.raises(InvalidInputError, match="Evaluator: expected at least one metric, got none"):
        Evaluator(evaluation_step, [])
    twice = Evaluator(evaluation_step, [Accuracy(CLASSES), Accuracy(CLASSES)])
    with pytest.raises(InvalidInputError, match="metrics: expected distinct names, got 'accuracy' twice"):
        make_trainer(evaluator=twice).evaluate(SeekableLoader())
    no_dict = evaluator()
    no_dict.step = lambda model, batch: model(batch["points"])
    with pytest.raises(InvalidInputError, match="evaluation step: expected a dict of outputs, got Tensor"):
        make_trainer(evaluator=no_dict).evaluate(SeekableLoader())


class Swapped(Callback):
    """Evaluates with other weights, as an average of weights would be; the second of two may fail to begin."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails, self.is_open = fails, False

    @contextmanager
    def evaluation_context(self, trainer: Trainer) -> Iterator[None]:
        if self.fails:
            raise OSError("no average")
        kept = {name: value.numpy().copy() for name, value in trainer.model.state_dict().items()}
        for value in trainer.model.state_dict().values():
            value.set_value(paddle.zeros_like(value))
        self.is_open = True
        try:
            yield
        finally:
            for name, value in trainer.model.state_dict().items():
                value.set_value(kept[name])
            self.is_open = False


@pytest.mark.parametrize("where", ["step", "metric", "loader", "second context", "empty", "interrupt"])
def test_everything_is_put_back_after_an_error(where: str) -> None:
    def step(model: paddle.nn.Layer, batch: Any) -> dict[str, Any]:
        assert swapped.is_open
        assert not model.training
        paddle.rand([3])
        if where in ("step", "interrupt"):
            raise {"step": ValueError, "interrupt": KeyboardInterrupt}[where]
        return evaluation_step(model, batch) | ({"logits": None} if where == "metric" else {})

    def loader() -> Iterator[Any]:
        np.random.rand()
        yield from list(SeekableLoader())[:2]
        raise LookupError("half a file")

    errors = {
        "step": ValueError,
        "metric": InvalidInputError,
        "loader": LookupError,
        "second context": OSError,
    }
    swapped = Swapped()
    callbacks = [swapped, Swapped(fails=True)] if where == "second context" else [swapped]
    trainer = make_trainer(callbacks, evaluator=Evaluator(step, [Accuracy(CLASSES)]))
    trainer.model[3].eval()  # a layer that was frozen by hand stays so
    before, modes = tensors(trainer), [layer.training for layer in trainer.model.sublayers(include_self=True)]
    rng = get_rng_state()
    batches: Any = {"empty": [], "loader": loader()}.get(where, SeekableLoader())
    with pytest.raises({"interrupt": KeyboardInterrupt}.get(where, errors.get(where, InvalidInputError))):
        trainer.evaluate(batches)
    assert_same_bits(tensors(trainer), before)
    assert [layer.training for layer in trainer.model.sublayers(include_self=True)] == modes
    assert get_rng_state() == rng
    assert paddle.is_grad_enabled()
    assert not swapped.is_open
    trainer.callbacks[:] = [swapped]
    trainer.evaluator = evaluator()
    assert trainer.evaluate(SeekableLoader())["loss"] == pytest.approx(np.log(CLASSES))  # all logits are 0


def test_several_sets_are_evaluated_each_from_zero() -> None:
    sets = {"first": list(SeekableLoader())[:4], "second": list(SeekableLoader())[4:]}
    trainer = make_trainer()
    state = trainer.fit(SeekableLoader(), sets, max_steps=3)
    for name, batches in sets.items():
        for metric, value in trainer.evaluate(batches).items():
            assert state.metrics[f"{name}/{metric}"] == value
    assert len(state.metrics) == 2 * 5
