"""Needs Ray, which is not in the development environment: these tests skip where it is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import InvalidInputError, MissingExtraError
from paddle_infra.train import Choice, FloatRange, IntegerRange, Report, ray_search
from paddle_infra.train.tuning.ray_search import ray_space

SPACE = {"x": FloatRange(0.0, 1.0), "n": IntegerRange(2, 9, step=2), "name": Choice(["a", "b"])}


def three_reports(parameters: dict[str, Any], report: Report) -> float:
    for step in (1, 2, 3):
        report(parameters["x"] * step)
    return parameters["x"] * 3


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
@pytest.mark.parametrize("engine", ["random", "optuna"])
def test_search_on_a_cluster_of_this_machine(ray: Any, tmp_path: Path, engine: Any) -> None:
    result = ray_search(three_reports, SPACE, trials=6, directory=tmp_path, engine=engine, seed=1)
    assert [row.state for row in result.trials] == ["complete"] * 6
    assert result.best_value == 3 * max(row.parameters["x"] for row in result.trials)
    assert len({row.parameters["x"] for row in result.trials}) == 6
    assert [row.number for row in result.trials] == list(range(6))
    for row in result.trials:
        x = row.parameters["x"]
        assert (row.value, row.reports) == (x * 3, {1: x, 2: x * 2, 3: x * 3})
        assert row.parameters["n"] in (2, 4, 6, 8)
        assert row.parameters["name"] in "ab"
    again = ray_search(three_reports, SPACE, trials=6, directory=tmp_path, engine=engine, seed=1)
    assert again.trials == result.trials  # nothing ran again


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_scheduler_prunes_and_failed_trials_run_again(ray: Any, tmp_path: Path) -> None:
    def objective(parameters: dict[str, Any], report: Report) -> float:
        for step in range(1, 40):
            report(parameters["x"] * step)
        return parameters["x"] * 40

    result = ray_search(
        objective, {"x": FloatRange(0.0, 1.0)}, trials=8, directory=tmp_path, scheduler="asha", seed=0
    )
    states = [row.state for row in result.trials]
    assert set(states) == {"complete", "pruned"}
    assert all(len(row.reports) < 39 for row in result.trials if row.state == "pruned")

    marker = tmp_path / "fixed"

    def fails_at_first(parameters: dict[str, Any], report: Report) -> float:
        if parameters["x"] < 0.5 and not marker.exists():
            raise ZeroDivisionError("not yet")
        return parameters["x"]

    options: Any = {"trials": 6, "directory": tmp_path, "name": "failing", "seed": 0, "mode": "min"}
    first = ray_search(fails_at_first, {"x": FloatRange(0.0, 1.0)}, **options)
    assert "failed" in [row.state for row in first.trials]
    assert all("not yet" in (row.error or "") for row in first.trials if row.state == "failed")
    assert all(row.parameters["x"] < 0.5 for row in first.trials if row.state == "failed")
    marker.touch()
    second = ray_search(fails_at_first, {"x": FloatRange(0.0, 1.0)}, **options)
    assert [row.state for row in second.trials] == ["complete"] * 6
    assert second.best_value is not None
    assert second.best_value < 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_space_in_the_form_of_ray() -> None:
    pytest.importorskip("ray")
    space = ray_space(
        {
            "a": FloatRange(1e-4, 1e-1, log=True),
            "b": IntegerRange(1, 3),
            "c": IntegerRange(1, 8, log=True),
            "d": IntegerRange(4, 10, step=4),
        }
    )
    drawn = {name: [dimension.sample() for _ in range(300)] for name, dimension in space.items()}
    assert all(1e-4 <= value <= 1e-1 for value in drawn["a"])
    assert sum(value < 10**-2.5 for value in drawn["a"]) == pytest.approx(150, abs=60)
    assert set(drawn["b"]) == {1, 2, 3}
    assert set(drawn["c"]) == set(range(1, 9))
    assert set(drawn["d"]) == {4, 8}
    with pytest.raises(
        InvalidInputError, match="search space: n: expected a range that starts at a multiple of its"
    ):
        ray_space({"n": IntegerRange(1, 9, step=2)})


def test_bad_arguments_and_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in [
        ({"trials": 0}, "trials: expected a positive integer, got 0"),
        ({"scheduler": "hyper"}, "scheduler: expected one of .*'asha'.* got 'hyper'"),
        ({"engine": "grid"}, "engine: expected one of .* got 'grid'"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            ray_search(three_reports, SPACE, **({"trials": 1, "directory": tmp_path} | options))  # type: ignore[arg-type]
    for module in ("ray", "ray.tune"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"paddle_infra\[ray\]"):
        ray_search(three_reports, SPACE, trials=1, directory=tmp_path)
