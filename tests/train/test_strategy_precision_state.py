from __future__ import annotations

from typing import NamedTuple

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import CheckpointError
from paddle_infra.train import SingleDevice, TrainState


class Pair(NamedTuple):
    x: object
    y: object


def test_arrays_become_tensors_and_the_rest_stays() -> None:
    strategy = SingleDevice("cpu")
    tensor = paddle.ones([1])
    batch = {
        "a": np.ones((2, 3), np.float32),
        "b": [np.arange(2), "text"],
        "c": Pair(np.zeros(1), 5),
        "d": tensor,
    }
    moved = strategy.to_device(batch)
    assert isinstance(moved["a"], paddle.Tensor)
    assert moved["a"].dtype == paddle.float32
    assert moved["b"][0].dtype == paddle.int64
    assert moved["b"][1] == "text"
    assert isinstance(moved["c"], Pair)
    assert isinstance(moved["c"].x, paddle.Tensor)
    assert moved["c"].y == 5
    assert moved["d"] is tensor
    assert strategy.sum([3, 0.5]) == [3, 0.5]
    assert strategy.gather(batch) == [batch]


def test_state_round_trip() -> None:
    state = TrainState(epoch=1, batch=2, step=3, metrics={"f1": 0.5})
    state.stop("enough")
    values = state.to_dict()
    assert TrainState.from_dict(values) == state
    del values["step"]
    with pytest.raises(
        CheckpointError, match=r"expected the fields .*'step'.*: the checkpoint comes from another"
    ):
        TrainState.from_dict(values)
