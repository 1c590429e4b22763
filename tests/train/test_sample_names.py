"""Errors of a step name the samples of its batch, if the batch says which they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import NonFiniteLossError
from tests.train.problem import SeekableLoader, make_trainer, mean_loss


class NamedLoader(SeekableLoader):
    """Batches that say which samples they have."""

    def iterate(self, epoch: int, start: int = 0) -> Iterator[dict[str, Any]]:
        for index, batch in enumerate(super().iterate(epoch, start), start):
            yield {**batch, "ids": [f"sample-{index}-{row}" for row in range(len(batch["labels"]))]}


def poisoned_step(model: paddle.nn.Layer, batch: dict[str, Any]) -> paddle.Tensor:
    loss = mean_loss(model(batch["points"]), batch["labels"])
    return loss * np.nan if "sample-4-0" in batch.get("ids", ["sample-4-0"]) else loss


def test_a_loss_that_is_not_finite_names_the_samples() -> None:
    trainer = make_trainer(training_step=poisoned_step)
    with pytest.raises(NonFiniteLossError, match=r"batch 5: .*\(ids \['sample-4-0', 'sample-4-1', .*\]\)"):
        trainer.fit(NamedLoader(), max_epochs=1)
    assert trainer.state.step == 4


def test_batches_without_names_are_counted_only() -> None:
    trainer = make_trainer(training_step=poisoned_step)
    with pytest.raises(NonFiniteLossError, match="batch 1: ") as caught:
        trainer.fit(SeekableLoader(), max_epochs=1)
    assert "ids" not in str(caught.value)
