from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import F1, Accuracy, Evaluator, MeanLoss, Trainer
from tests.train.problem import CLASSES, SeekableLoader, evaluation_step, evaluator, make_trainer, mean_loss


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
