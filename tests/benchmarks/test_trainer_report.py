"""The benchmark of training loops: turns, the check of weights, rows and the report, with made-up times."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_trainer, report_trainer
from benchmarks._harness import append_rows
from benchmarks._report_markdown import fill
from benchmarks._report_rows import read_rows
from benchmarks._trainer_turns import TurnLoader, Worker, Workload, make_batches

TINY = Workload("tiny", 2, 3, rounds=2, steps_per_turn=3, warmup_steps=1)
CONTEXT = {"commit": "0123456789ab", "device": "a processor", "python": "3.11", "versions": "numpy 2"}
FACTORS = {"paddle_infra": 1.01, "paddle_infra-callbacks": 1.03, "paddle-model": 1.1}


def rows(threads: int = 1, scale: float = 1.0, date: str = "2026-01-02 03:04") -> list[dict]:
    found = []
    for workload, seconds in ((bench_trainer.TINY, 1e-3), (bench_trainer.MINILM, 0.5)):
        factors = {"paddle-loop": 1.0, **FACTORS}
        rounds = [
            {name: seconds * scale * f * factor for name, factor in factors.items()} for f in (1, 3, 1.1)
        ]
        peaks, libraries = dict.fromkeys(factors, 1e6), dict.fromkeys(factors, "paddlepaddle 3")
        found += bench_trainer.rows_of(workload, threads, rounds, peaks, libraries)
    return [{**row, **CONTEXT, "date": date} for row in found]


def figures(*found: dict) -> report_trainer.Figures:
    return report_trainer.Figures([{**row, "threads": float(row["threads"])} for row in found])


@pytest.mark.parametrize("ahead", [0, 1], ids=["as asked", "one batch ahead"])
@pytest.mark.parametrize("is_counting", [False, True], ids=["to the end", "counting its steps"])
def test_every_loop_goes_through_all_turns(ahead: int, is_counting: bool):
    events: list[str] = []
    loader = TurnLoader(TINY, lambda: events.append("begin"), lambda seconds: events.append("end"))
    iterator = iter(loader)
    fetched = [next(iterator) for _ in range(ahead)]
    steps = 0
    while not (is_counting and steps == len(loader)):
        fetched += [batch for batch in [next(iterator, None)] if batch is not None]
        if not fetched:
            break
        fetched.pop(0)
        steps += 1
        events.append("step")
    assert steps == len(loader) == TINY.total_steps == 8
    assert [event for event in events if event != "step"] == ["begin", "end"] * 3
    # Turns after the first have exactly their steps inside, also if a batch is fetched ahead.
    begins = [index for index, event in enumerate(events) if event == "begin"]
    ends = [index for index, event in enumerate(events) if event == "end"]
    inside = [events[first:last].count("step") for first, last in zip(begins, ends, strict=True)]
    assert inside == [1 - ahead, 3, 3]


def test_batches_are_the_same_everywhere():
    left, right = make_batches(TINY), make_batches(TINY)
    assert all(np.array_equal(a[key], b[key]) for a, b in zip(left, right, strict=True) for key in a)
    assert left[0]["inputs"].shape == (2, 3)
    assert make_batches(bench_trainer.MINILM, 1)[0]["input_ids"].shape == (16, 128)


def test_weights_that_differ_are_refused():
    bench_trainer.check_weights({"a": [1.0, 2.0], "b": [1.0, 2.00001]})
    with pytest.raises(RuntimeError, match=r"b: expected the weights of a within 1e-04, got 1\.0e-02"):
        bench_trainer.check_weights({"a": [1.0, 2.0], "b": [1.0, 2.01]})


def test_a_contestant_without_environment_is_left_out_aloud(monkeypatch, tmp_path: Path, capsys):
    missing = bench_trainer.Contestant("torch", tmp_path / ".venv-nowhere", None, ())
    monkeypatch.setitem(bench_trainer.CONTESTANTS, "lightning", missing)
    assert bench_trainer.available(["paddle-loop", "lightning"]) == ["paddle-loop"]
    assert "skipped: lightning: no .venv-nowhere" in capsys.readouterr().err


def test_a_worker_that_fails_says_why():
    worker = Worker(Path(sys.executable), {"contestant": "nobody", "framework": "paddle"}, 1)
    try:
        with pytest.raises(RuntimeError, match=r"(?s)nobody: expected libraries, got ''.*KeyError"):
            worker.receive("libraries")
    finally:
        worker.close()


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peak memory is read from /proc")
def test_the_contestants_of_this_environment_train_to_the_same_weights():
    names = [name for name, found in bench_trainer.CONTESTANTS.items() if found.environment is None]
    workload = TINY._replace(batch=4, length=16)
    found = bench_trainer.measure(names, [workload], threads=1)  # check_weights is inside
    assert [row["contestant"] for row in found] == names
    assert all(row["rounds"] == 2 and row["median_ms"] > 0 for row in found)


def test_rows_compare_within_rounds():
    row = next(row for row in rows() if (row["workload"], row["contestant"]) == ("tiny", "paddle-model"))
    assert row["base"] == "paddle-loop"
    assert row["ratio"] == pytest.approx(1.1)
    assert row["ratio_q80"] == pytest.approx(1.1)
    assert row["added_us"] == pytest.approx(110.0)
    assert row["median_ms"] == pytest.approx(1.21)


def test_targets_are_computed_and_missed_ones_said():
    table = report_trainer.targets_table(figures(*rows(1), *rows(2)))
    lines = table.splitlines()[2:]
    assert "| 1.0100 · 1.0100 | yes |" in lines[0]
    assert "| 1.0300 · 1.0300 | **no** |" in lines[2]
    assert lines[1].endswith("| 0.002% · 0.002% | yes |")


def test_a_run_without_ours_says_nothing_of_the_target():
    others = [row for row in rows() if not row["contestant"].startswith("paddle_infra")]
    lines = report_trainer.targets_table(figures(*others)).splitlines()[2:]
    assert len(lines) == 4
    assert all(line.endswith("| — | — |") for line in lines)


def test_the_latest_run_counts_and_unknown_cells_are_empty():
    old, new = rows(1, scale=5.0, date="2026-01-01 00:00"), rows(1)
    table = report_trainer.times_table(figures(*old, *new))
    assert "| *paddle-loop* | paddlepaddle 3 | 550.0 | — | — |" in table
    assert "| paddle-model | paddlepaddle 3 | 605.0 | 1.100 (1.100 to 1.100) | +110 (+104 to +224) |" in table


def test_rows_survive_the_file_and_the_page_has_the_marker(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("benchmarks._harness.DATA", tmp_path)
    assert report_trainer.section(tmp_path) == report_trainer.MISSING
    append_rows(
        "trainer", [{k: v for k, v in row.items() if k not in CONTEXT and k != "date"} for row in rows()]
    )
    assert len(read_rows("trainer", tmp_path)) == 8
    page = fill(
        report_trainer.PAGE.read_text(encoding="utf-8"),
        {"table": report_trainer.section(tmp_path)},
        "trainer",
    )
    assert "paddle_infra-callbacks" in page
