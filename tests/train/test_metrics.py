from __future__ import annotations

import math

import numpy as np
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import MeanLoss
from paddle_infra.train.metrics.base import is_better, metric_value


def test_mean_loss_weights_batches_by_their_items() -> None:
    metric = MeanLoss()
    metric.update(loss=np.float32(1.0), items=3, logits="unused")
    metric.update(loss=np.array([4.0]), items=np.int64(1))
    metric.update(loss=math.nan, items=0)
    assert metric.compute() == {"loss": 7 / 4}
    metric.reset()
    assert math.isnan(metric.compute()["loss"])
    with pytest.raises(InvalidInputError, match="expected the evaluation outputs 'loss' and 'items'"):
        metric.update(loss=1.0)


@pytest.mark.parametrize(
    ("value", "best", "mode", "min_delta", "expected"),
    [
        (0.5, None, "max", 0.0, True),
        (0.5, 0.5, "max", 0.0, False),
        (0.6, 0.5, "max", 0.0, True),
        (0.6, 0.5, "max", 0.2, False),
        (0.4, 0.5, "min", 0.0, True),
        (0.4, 0.5, "min", 0.2, False),
        (math.nan, 0.5, "max", 0.0, False),
        (math.nan, None, "min", 0.0, False),
    ],
)
def test_is_better(value: float, best: float | None, mode: str, min_delta: float, expected: bool) -> None:
    assert is_better(value, best, mode, min_delta) is expected


def test_unknown_mode_and_metric() -> None:
    with pytest.raises(InvalidInputError, match="mode: expected 'max' or 'min', got 'most'"):
        is_better(1.0, None, "most")
    with pytest.raises(
        InvalidInputError, match=r"Checkpoint: expected the validation metric 'f1', got \['loss'\]"
    ):
        metric_value({"loss": 1.0}, "f1", "Checkpoint")
