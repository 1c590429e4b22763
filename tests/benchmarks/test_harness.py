from __future__ import annotations

import itertools
import math

import pytest

from benchmarks._harness import geometric_mean, plan_strides, round_ratios, summarize


@pytest.mark.parametrize(
    ("costs", "rounds", "strides"),
    [
        ({"a": 1.0, "b": 1.0}, 3, {"a": 1, "b": 1}),  # the least, although it takes longer
        ({"a": 0.1, "b": 0.1}, 12, {"a": 1, "b": 1}),
        ({"a": 0.1, "b": 10.0}, 12, {"a": 1, "b": 4}),
        ({"a": 1e-6, "b": 0.5}, 48, {"a": 1, "b": 8}),  # a turn more rather than one less
    ],
)
def test_slow_contestants_take_part_less_often(costs: dict, rounds: int, strides: dict) -> None:
    assert plan_strides(costs, seconds=4.0, min_rounds=3, max_rounds=50) == (rounds, strides)


def test_every_pair_meets_as_often_as_the_slower_one_runs() -> None:
    costs = {str(cost): cost for cost in (1e-6, 0.01, 0.05, 0.3, 2.0, 30.0)}
    rounds, strides = plan_strides(costs, seconds=6.0)
    turns = {name: set(range(0, rounds, stride)) for name, stride in strides.items()}
    assert all(len(found) >= 3 for found in turns.values())
    for first, second in itertools.pairwise(turns.values()):
        assert second <= first


def test_ratios_are_of_the_same_round() -> None:
    rounds = [{"a": 2.0, "b": 1.0}, {"b": 5.0}, {"a": 9.0, "b": 3.0}, {"a": 1.0}]
    assert round_ratios(rounds, "a", "b") == [2.0, 3.0]
    assert round_ratios(rounds, "a", "c") == []


def test_geometric_mean() -> None:
    assert math.isclose(geometric_mean([0.5, 2.0, 8.0]), 2.0)


def test_summaries() -> None:
    assert summarize([3.0, 1.0, 2.0, 5.0, 4.0, 6.0], 10) == {
        "median": 35.0,
        "q20": 20.0,
        "q80": 50.0,
        "rounds": 6,
    }
    assert summarize([7.0]) == {"median": 7.0, "q20": 7.0, "q80": 7.0, "rounds": 1}
