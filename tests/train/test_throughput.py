"""Speed, time left, memory, and the profiler's trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import Callback, Profiler, Throughput
from paddle_infra.train import throughput as module
from tests.train.problem import SeekableLoader, make_trainer, training_step


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def timed(clock: Clock) -> Any:
    """A training step of half a second and an evaluation step of seven seconds."""

    def step(model: Any, batch: Any) -> Any:
        clock.now += 0.5
        return training_step(model, batch)

    return step


class Slow(Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_evaluate_batch(self, trainer: Any) -> None:
        self.clock.now += 7.0


def test_speed_and_time_left_without_validation(clock: Clock) -> None:
    throughput = Throughput(steps=4)
    trainer = make_trainer([throughput, Slow(clock)], training_step=timed(clock), accumulate=2)
    trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=2, max_steps=11)
    # Steps are of two batches of 16 in a second, the last one of an epoch of one batch of 8 in half a second.
    # The last four steps are 8 to 11 of which all are whole.
    assert throughput.samples_per_s == pytest.approx(32.0)
    assert throughput.seconds_left == 0
    state = trainer.state
    assert (state.step, state.samples) == (11, 200 + 4 * 32)
    labels = np.concatenate([batch["labels"] for batch in SeekableLoader().iterate(1)])[: 4 * 32]
    assert throughput.items_per_s == pytest.approx((labels != -100).sum() / 4)


def test_time_left_in_the_middle(clock: Clock) -> None:
    seen: list[float | None] = []

    class Seen(Callback):
        def on_step_end(self, trainer: Any) -> None:
            seen.append(throughput.seconds_left)

    throughput = Throughput()
    trainer = make_trainer([throughput, Seen()], training_step=timed(clock))
    trainer.fit(SeekableLoader(), max_steps=4)
    assert seen == pytest.approx([1.5, 1.0, 0.5, 0.0])
    endless = make_trainer([throughput, Seen()], training_step=timed(clock))
    endless.fit(iter_only(), max_epochs=1)
    assert seen[-1] is None


def iter_only() -> Any:
    class WithoutLength:
        def __iter__(self) -> Any:
            return iter(SeekableLoader())

    return WithoutLength()


ROOT = Path(__file__).parents[2]

# In a process of its own: the peak of one that has run other tests may be far away already.
GROWING = """
import numpy as np
from paddle_infra.train import Throughput
from tests.train.problem import SeekableLoader, make_trainer, training_step

throughput, taken = Throughput(), []

def step(model, batch):
    taken.append(np.ones(8_000_000))  # 64 MB, written to
    return training_step(model, batch)

make_trainer([throughput]).fit(SeekableLoader(), max_steps=1)
before = throughput.peak_memory_bytes
make_trainer([throughput], training_step=step).fit(SeekableLoader(), max_steps=8)
print(throughput.peak_memory_bytes - before, *throughput.values())
"""


def test_peak_memory_grows_with_what_is_taken() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GROWING],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    growth, *names = done.stdout.splitlines()[-1].split()
    assert int(growth) > 300_000_000
    assert set(names) >= {"samples_per_s", "items_per_s", "seconds_left", "peak_memory_bytes"}
    assert "peak_gpu_memory_bytes" not in names


@pytest.mark.parametrize(("max_steps", "last"), [(6, 4), (3, 3)])
def test_the_profiler_writes_a_trace_of_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_steps: int, last: int
) -> None:
    monkeypatch.chdir(tmp_path)
    profiler = Profiler(tmp_path / "traces", first_step=2, steps=3)
    make_trainer([profiler]).fit(SeekableLoader(), max_steps=max_steps)
    assert profiler.path == tmp_path / f"traces/steps-2-{last}.json"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [
        profiler.path
    ]  # and no ./profiler_log
    names = [event.get("name", "") for event in json.loads(profiler.path.read_text())["traceEvents"]]
    assert any("matmul" in name or "linear" in name for name in names)


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    def fails(model: Any, batch: Any) -> Any:
        raise RuntimeError("lost")

    profiler = Profiler(tmp_path / "traces", first_step=1, steps=3)
    with pytest.raises(RuntimeError, match="lost"):
        make_trainer([profiler], training_step=fails).fit(SeekableLoader(), max_steps=9)
    assert not (tmp_path / "traces").exists()
    make_trainer([Profiler(tmp_path / "again", first_step=1, steps=1)]).fit(SeekableLoader(), max_steps=1)


def test_arguments_are_checked() -> None:
    with pytest.raises(InvalidInputError, match="Throughput: steps: expected 1 or more, got 0"):
        Throughput(steps=0)
    with pytest.raises(InvalidInputError, match="expected first_step >= 1 and steps >= 1, got 0 and 5"):
        Profiler("x", first_step=0)
