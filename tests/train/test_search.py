from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paddle_infra._core.errors import InvalidInputError, MissingExtraError, TrainingError
from paddle_infra.train import Choice, FloatRange, IntegerRange, Report, SearchStorage, read_search, search
from paddle_infra.train.tuning.search_space import as_space, space_as_json

optuna = pytest.importorskip("optuna")
SPACE = {"x": FloatRange(0.0, 1.0), "n": IntegerRange(1, 9, step=2), "name": Choice(["a", None, True, 0.5])}
ROOT = Path(__file__).parents[2]


def parabola(parameters: dict[str, Any], report: Report) -> float:
    return -((parameters["x"] - 0.3) ** 2) - (0.1 if parameters["n"] != 5 else 0.0)


def proposals(result: Any) -> list[dict[str, Any]]:
    return [row.parameters for row in result.trials if row.retry_of is None]


def worker(storage: str, log: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-m", "tests.train.search_worker", storage, str(log), *options]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def test_finds_the_best_and_saves_it(tmp_path: Path) -> None:
    result = search(parabola, SPACE, trials=15, seed=1)
    values = [row.value for row in result.trials]
    assert [row.number for row in result.trials] == list(range(15))
    assert {row.state for row in result.trials} == {"complete"}
    assert result.best_value == max(values)
    assert result.best_number is not None
    assert result.best_parameters == result.trials[result.best_number].parameters
    assert all(0 <= p["x"] <= 1 and p["n"] in (1, 3, 5, 7, 9) for p in proposals(result))
    assert {p["name"] for p in proposals(result)} == {"a", None, True, 0.5}
    assert set(result.importances) == set(SPACE)
    assert sum(result.importances.values()) == pytest.approx(1.0)
    assert result.importances["name"] < result.importances["x"]
    result.save(tmp_path / "result.json")
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["best_parameters"] == result.best_parameters
    assert len(saved["trials"]) == 15


def test_smallest_is_best_with_mode_min() -> None:
    result = search(lambda p, report: p["x"], {"x": FloatRange(1.0, 2.0)}, trials=5, mode="min", seed=0)
    assert result.best_value == min(row.value for row in result.trials if row.value is not None)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_resumed_search_proposes_what_an_uninterrupted_one_does(tmp_path: Path, sampler: str) -> None:
    whole = search(parabola, SPACE, trials=14, seed=3, sampler=sampler)
    for trials in (4, 11, 14):
        parts = search(
            parabola, SPACE, trials=trials, seed=3, sampler=sampler, storage=tmp_path / "new/j.log"
        )
    assert proposals(parts) == proposals(whole)
    assert len({p["x"] for p in proposals(parts)}) == 14  # a restarted generator would repeat itself
    assert proposals(search(parabola, SPACE, trials=14, seed=4, sampler=sampler)) != proposals(whole)
    more = search(parabola, SPACE, trials=14, seed=3, sampler=sampler, storage=tmp_path / "new/j.log")
    assert len(more.trials) == 14
    assert read_search(tmp_path / "new/j.log") == more


def test_own_sampler_and_pruner() -> None:
    def grid(seed: int | None) -> Any:
        return optuna.samplers.GridSampler({"n": [1, 9]}, seed=seed)

    result = search(
        lambda p, report: p["n"],
        {"n": IntegerRange(1, 9)},
        trials=2,
        sampler=grid,
        pruner=optuna.pruners.NopPruner(),
        seed=0,
    )
    assert {row.parameters["n"] for row in result.trials} <= {1, 9}


@pytest.mark.parametrize("pruner", ["median", "hyperband", "successive_halving"])
def test_hopeless_trials_are_pruned(pruner: str) -> None:
    steps: dict[int, int] = {}

    def objective(parameters: dict[str, Any], report: Report) -> float:
        for step in range(1, 10):
            steps[report.number] = step
            if report(parameters["x"] * step):
                return float("nan")  # what a pruned trial returns does not matter
        return parameters["x"] * 10

    result = search(
        objective, {"x": FloatRange(0.0, 1.0)}, trials=25, pruner=pruner, seed=0, sampler="random"
    )
    pruned = [row for row in result.trials if row.state == "pruned"]
    assert 0 < len(pruned) < 25
    assert result.best_value == 10 * max(row.parameters["x"] for row in result.trials)
    for row in result.trials:
        assert list(row.reports) == list(range(1, steps[row.number] + 1))
    for row in pruned:
        assert row.value == row.reports[steps[row.number]]
    unpruned = search(objective, {"x": FloatRange(0.0, 1.0)}, trials=25, seed=0, sampler="random")
    assert {row.state for row in unpruned.trials} == {"complete"}


def test_two_processes_share_one_journal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pair = [worker(str(tmp_path / "journal"), log, "--trials", "24", "--wait", "2") for _ in range(2)]
    for process in pair:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    result = read_search(tmp_path / "journal")
    assert [row.state for row in result.trials] == ["complete"] * 24
    text = log.read_text()
    for word in ("started", "ended"):
        lines = re.findall(rf"{word} (\d+) \d+ (\S+)", text)
        assert len(lines) == 24  # none lost, none twice
        ran = {int(number): float(x) for number, x in lines}
        assert ran == {row.number: row.parameters["x"] for row in result.trials}
    assert len({row.parameters["x"] for row in result.trials}) == 24  # no proposal twice
    assert not list((tmp_path / "journal.workers").iterdir())


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_trial_of_a_killed_worker_is_run_again(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("sqlalchemy")
    storage = str(tmp_path / "s") if kind == "journal" else f"sqlite:///{tmp_path / 's.db'}"
    killed = worker(storage, tmp_path / "log", "--trials", "5", "--kill-at", "2")
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    assert [row.state for row in read_search(storage).trials] == ["complete", "complete", "running"]
    again = worker(storage, tmp_path / "log", "--trials", "5")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors.decode()
    result = read_search(storage)
    assert [row.state for row in result.trials] == ["complete"] * 2 + ["failed"] + ["complete"] * 3
    assert [row.origin for row in result.trials] == [0, 1, 2, 2, 4, 5]
    assert (result.trials[3].retry_of, result.trials[3].parameters) == (2, result.trials[2].parameters)
    whole = search(lambda p, report: -((p["x"] - 0.3) ** 2), {"x": FloatRange(0.0, 1.0)}, trials=5, seed=5)
    assert proposals(result) == proposals(whole)
    assert "started 3 2 " in (tmp_path / "log").read_text()  # it is told whose work it goes on with


def test_interrupted_trial_is_run_again_without_limit(tmp_path: Path) -> None:
    calls: list[tuple[int, int, float]] = []

    def objective(parameters: dict[str, Any], report: Report) -> float:
        calls.append((report.number, report.origin, parameters["x"]))
        if len(calls) < 5:
            raise KeyboardInterrupt
        return 1.0

    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            search(objective, {"x": FloatRange(0.0, 1.0)}, trials=1, storage=tmp_path / "j")
    result = search(objective, {"x": FloatRange(0.0, 1.0)}, trials=1, storage=tmp_path / "j")
    assert [(number, origin) for number, origin, _ in calls] == [(i, 0) for i in range(5)]
    assert len({x for _, _, x in calls}) == 1
    assert [row.state for row in result.trials] == ["failed"] * 4 + ["complete"]


def test_errors_count_only_if_they_are_caught_or_repeated(tmp_path: Path) -> None:
    def objective(parameters: dict[str, Any], report: Report) -> float:
        raise ZeroDivisionError("diverged") if parameters["x"] < 0.5 else RuntimeError("a bug")

    place = SearchStorage(tmp_path / "j", retries=1)
    space = {"x": FloatRange(0.0, 0.4)}
    result = search(objective, space, trials=3, storage=place, catch=(ZeroDivisionError,), seed=0)
    assert [row.error for row in result.trials] == ["ZeroDivisionError: diverged"] * 3
    assert (result.best_number, result.best_value, result.best_parameters) == (None, None, {})

    place = SearchStorage(tmp_path / "j", name="other", retries=1)
    space = {"x": FloatRange(0.6, 1.0)}
    for _ in range(2):  # the first attempt and one repetition
        with pytest.raises(RuntimeError, match="a bug"):
            search(objective, space, trials=1, storage=place)
    result = search(objective, space, trials=1, storage=place)
    assert [(row.retry_of, row.error) for row in result.trials] == [
        (None, "RuntimeError: a bug"),
        (0, "RuntimeError: a bug"),
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "high"])
def test_value_that_is_no_finite_number(value: Any) -> None:
    with pytest.raises(
        TrainingError, match=f"trial 0: expected a finite number from the objective, got {value!r}"
    ):
        search(lambda p, report: value, {"x": FloatRange(0.0, 1.0)}, trials=1)


def test_trial_that_was_given_to_another_worker_is_dropped(tmp_path: Path) -> None:
    def objective(parameters: dict[str, Any], report: Report) -> float:
        if report.number == 0:  # what another worker does after a silence
            study = optuna.load_study(study_name="search", storage=SearchStorage(tmp_path / "j").open())
            study.tell(0, state=optuna.trial.TrialState.FAIL)
        return parameters["x"]

    with pytest.warns(UserWarning, match="trial 0 took no sign of life for too long"):
        result = search(objective, {"x": FloatRange(0.0, 1.0)}, trials=2, storage=tmp_path / "j", seed=0)
    assert [(row.state, row.retry_of) for row in result.trials] == [
        ("failed", None),
        ("complete", 0),
        ("complete", None),
    ]


def test_another_search_in_the_same_study_is_refused(tmp_path: Path) -> None:
    search(parabola, SPACE, trials=1, storage=tmp_path / "j")
    with pytest.raises(
        InvalidInputError, match=r"study 'search': expected .*'mode': 'max'.* got .*'mode': 'min'"
    ):
        search(parabola, SPACE, trials=2, mode="min", storage=tmp_path / "j")
    with pytest.raises(InvalidInputError, match="use another name or location"):
        search(parabola, SPACE | {"n": IntegerRange(1, 5)}, trials=2, storage=tmp_path / "j")
    assert len(read_search(tmp_path / "j").trials) == 1
    for missing in (tmp_path / "none", SearchStorage(tmp_path / "j", name="none")):
        with pytest.raises(InvalidInputError, match=r"expected the study '(search|none)', found none"):
            read_search(missing)
    assert not (tmp_path / "none").exists()


def test_no_trial_starts_after_the_time_is_over() -> None:
    assert search(parabola, SPACE, trials=3, timeout_s=0.0).trials == []


def test_bad_arguments() -> None:
    for options, message in [
        ({"trials": 0}, "trials: expected a positive integer, got 0"),
        ({"mode": "best"}, "mode: expected 'max' or 'min', got 'best'"),
        ({"sampler": "cma"}, "sampler: expected one of .'random', 'tpe'. or a function of a seed, got 'cma'"),
        ({"pruner": "asha"}, "pruner: expected one of .* got 'asha'"),
        ({"seed": -1}, "seed: expected a non-negative integer or None, got -1"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            search(parabola, SPACE, **({"trials": 1} | options))  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="heartbeat_s >= 1 and retries >= 0, got 0 and 2"):
        SearchStorage(None, heartbeat_s=0)


def test_optuna_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"paddle_infra\[search\]"):
        search(parabola, SPACE, trials=1)


def test_space_of_a_configuration_file() -> None:
    plain = {
        "rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
        "layers": {"type": "integer", "low": 1, "high": 4},
        "name": {"type": "choice", "values": ["a", None]},
    }
    space = as_space(plain)
    assert space == {
        "rate": FloatRange(1e-5, 1e-3, log=True),
        "layers": IntegerRange(1, 4),
        "name": Choice(["a", None]),
    }
    assert as_space(json.loads(json.dumps(space_as_json(space)))) == space


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_space({}), "expected at least one dimension by name"),
        (lambda: as_space({"x": 3}), "search space: x: expected FloatRange, IntegerRange, Choice or a dict"),
        (lambda: as_space({"x": {"type": "float", "low": 1}}), "search space: x: .*missing.*'high'"),
        (
            lambda: as_space({"x": {"type": "float", "low": 2, "high": 1}}),
            "x: FloatRange: expected low <= high",
        ),
        (lambda: FloatRange(0.0, 1.0, log=True), "expected 0 < low <= high, got 0.0 and 1.0"),
        (lambda: FloatRange(0.0, float("inf")), "expected finite numbers low and high"),
        (lambda: IntegerRange(1, 2.5), "expected integers low and high, got 1 and 2.5"),
        (
            lambda: IntegerRange(1, 8, log=True, step=2),
            "expected a positive integer step .1 with log., got 2",
        ),
        (lambda: Choice([]), "Choice: expected at least one boolean, integer, float, string or None, got ()"),
        (lambda: Choice([[1]]), "Choice: expected at least one boolean"),
        (lambda: Choice(["a", "a"]), "Choice: expected different values"),
        (lambda: Choice("ab"), "Choice: expected a list of values, got 'ab'"),
    ],
)
def test_bad_space(make: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make()
