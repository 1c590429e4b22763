from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import CheckpointError, InvalidInputError, TrainingError, WeightError
from paddle_infra.train import average_weights, greedy_soup, uniform_soup
from paddle_infra.train.checkpoints.checkpoint import CheckpointData, write_checkpoint


class Scaled(paddle.nn.Layer):
    """One weight and a counter."""

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.weight = self.create_parameter([size])
        self.register_buffer("calls", paddle.to_tensor([3]))


def checkpoint(folder: Path, weight: list[float], calls: int = 3) -> Path:
    weights = {"weight": paddle.to_tensor(weight), "calls": paddle.to_tensor([calls])}
    write_checkpoint(folder, CheckpointData(weights, {}, {}, {}))
    return folder


@pytest.fixture
def ladder(tmp_path: Path) -> list[Path]:
    """Checkpoints whose weights are 1, 4, 10 and -3."""
    return [checkpoint(tmp_path / f"c{i}", [value]) for i, value in enumerate([1.0, 4.0, 10.0, -3.0])]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_average_is_rounded_once(dtype: str) -> None:
    generator = np.random.default_rng(0)
    states = [
        {"w": paddle.to_tensor(generator.normal(size=40).astype("float32")).astype(dtype)} for _ in range(7)
    ]
    exact = [
        sum(Fraction(float(value)) for value in values) / 7
        for values in zip(*(state["w"].astype("float64").numpy() for state in states), strict=True)
    ]
    average = average_weights(states)["w"]
    expected = paddle.to_tensor(np.array([float(value) for value in exact])).astype(dtype)
    assert average.dtype == states[0]["w"].dtype
    if dtype == "float64":  # the sum itself rounds
        np.testing.assert_allclose(average.numpy(), expected.numpy(), rtol=0, atol=1e-15)
    else:
        assert bool((average == expected).all())


def test_copies_average_to_themselves_and_weights_count() -> None:
    value = paddle.to_tensor(np.random.default_rng(1).normal(size=50).astype("float32"))
    for count in (1, 3, 7, 10):
        assert bool((average_weights([{"w": value}] * count)["w"] == value).all())
    states = [{"w": paddle.to_tensor([0.0])}, {"w": paddle.to_tensor([8.0])}]
    assert average_weights(states, weights=[1.0, 3.0])["w"].item() == 6.0
    assert [state["w"].item() for state in states] == [0.0, 8.0]


def test_what_does_not_go_together_is_listed() -> None:
    first = {"a": paddle.ones([2]), "b": paddle.ones([2]), "n": paddle.to_tensor([1, 2])}
    other = {"a": paddle.ones([3]), "c": paddle.ones([2]), "n": paddle.to_tensor([1, 3])}
    with pytest.raises(WeightError) as caught:
        average_weights([first, first, other])
    message = str(caught.value)
    for part in (
        "state 2 does not go",
        "missing: b",
        "not in the first: c",
        "a: expected",
        "int64 has no average",
    ):
        assert part in message
    assert average_weights([first, first])["n"].tolist() == [1, 2]
    with pytest.raises(WeightError, match=r"a: expected paddle.float32\[2\], got paddle.float64\[2\]"):
        average_weights([{"a": paddle.ones([2])}, {"a": paddle.ones([2], dtype="float64")}])
    with pytest.raises(InvalidInputError, match="expected at least one state, got none"):
        average_weights([])


def test_uniform_soup(ladder: list[Path]) -> None:
    model = Scaled()
    uniform_soup(ladder, model)
    assert (model.weight.item(), model.calls.item()) == (3.0, 3)


def distance_to(target: float, calls: list[float]) -> Any:
    def metric(model: paddle.nn.Layer) -> float:
        calls.append(model.weight.item())
        return abs(calls[-1] - target)

    return metric


def test_greedy_soup_keeps_what_does_not_harm(ladder: list[Path]) -> None:
    model, seen = Scaled(), []
    soup = greedy_soup(ladder, model, distance_to(3.0, seen), mode="min")
    # alone: distances 2, 1, 7, 6; from the best: 4, then (4+1)/2 is nearer, (4+1-3)/3 and (4+1+10)/3 are not
    assert seen == [1.0, 4.0, 10.0, -3.0, 2.5, pytest.approx(2 / 3), 5.0]
    assert (soup.ingredients, soup.value) == ([ladder[1], ladder[0]], 0.5)
    assert list(soup.single.values()) == [2.0, 1.0, 7.0, 6.0]
    assert model.weight.item() == 2.5


def test_greedy_soup_with_max_keeps_equals_and_leaves_out_nan(ladder: list[Path]) -> None:
    model = Scaled()
    values = iter([0.5, float("nan"), 0.5, 0.25, 0.5, float("nan")])
    soup = greedy_soup(ladder, model, lambda model: next(values))
    assert (soup.ingredients, soup.value) == ([ladder[0], ladder[2]], 0.5)
    assert model.weight.item() == 5.5
    with pytest.raises(TrainingError, match="expected a value that is a number, got"):
        greedy_soup(ladder, model, lambda model: float("nan"))
    assert model.weight.item() == 5.5


def test_nothing_changes_on_errors(ladder: list[Path], tmp_path: Path) -> None:
    model = Scaled()
    before = model.weight.item()

    def failing(model: paddle.nn.Layer) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        greedy_soup(ladder, model, failing)
    larger = checkpoint(tmp_path / "larger", [1.0, 2.0])
    counted = checkpoint(tmp_path / "counted", [1.0], calls=4)
    for bad, error, message in [
        (larger, CheckpointError, r"larger: .*weight: expected float32\[1\], got float32\[2\]"),
        (counted, WeightError, "counted does not go with the first: calls: expected the values of the first"),
        (tmp_path / "none", CheckpointError, "expected a folder, found none"),
        (ladder[0], InvalidInputError, "at least one checkpoint and none twice"),
    ]:
        with pytest.raises(error, match=message):
            uniform_soup([*ladder, bad], model)
        with pytest.raises(error, match=message):
            greedy_soup([*ladder, bad], model, lambda model: 1.0)
    with pytest.raises(InvalidInputError, match="mode: expected 'max' or 'min', got 'best'"):
        greedy_soup(ladder, model, lambda model: 1.0, mode="best")  # type: ignore[arg-type]
    assert model.weight.item() == before
