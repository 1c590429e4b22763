from __future__ import annotations

from typing import NamedTuple

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import CheckpointError, InvalidInputError, UnsupportedError
from paddle_infra.train import Float32, SingleDevice, TrainState
from paddle_infra.train.precision import precision_from
from tests.train.problem import make_trainer


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


@pytest.mark.parametrize("name", ["amp", "bf16", "bfloat16", "fp16", "float16"])
def test_mixed_precision_on_a_cpu_is_an_error_that_says_so(name: str) -> None:
    with pytest.raises(
        UnsupportedError, match=rf"precision '{name}' on device 'cpu': .*auto_cast does nothing there"
    ):
        make_trainer(precision=name)
    with pytest.raises(UnsupportedError, match="mixed precision has no built-in Precision yet"):
        precision_from(name, "gpu:0")


def test_other_precisions() -> None:
    assert isinstance(precision_from(None, "cpu"), Float32)
    assert isinstance(precision_from("float32", "gpu:0"), Float32)
    own = Float32()
    assert precision_from(own, "cpu") is own
    with pytest.raises(InvalidInputError, match="expected 'float32' or a Precision object, got 'float64'"):
        precision_from("float64", "cpu")


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
