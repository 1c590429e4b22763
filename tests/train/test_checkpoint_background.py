"""Checkpoints that are written while training goes on: the same files, and no error is lost."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_infra._core.errors import StorageError
from paddle_infra.train import Callback, Checkpoint, checkpoints_in, verify_checkpoint
from paddle_infra.train.checkpoints import checkpointing as module
from paddle_infra.train.checkpoints.background import BackgroundJob
from tests.train.problem import SeekableLoader, assert_same_bits, make_trainer, tensors

ROOT = Path(__file__).parents[2]


def test_the_same_files_and_the_same_run(tmp_path: Path) -> None:
    for kind in (False, True):
        checkpoint = Checkpoint(tmp_path / str(kind), every_steps=1, keep_last=None, asynchronous=kind)
        make_trainer([checkpoint]).fit(SeekableLoader(), max_steps=6)
    synchronous, background = checkpoints_in(tmp_path / "False"), checkpoints_in(tmp_path / "True")
    assert len(synchronous) == len(background) == 6
    for left, right in zip(synchronous, background, strict=True):
        for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
            assert (left / name).read_bytes() == (right / name).read_bytes(), f"{left.name}/{name}"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Holds writing back until it is set."""
    event, write = threading.Event(), module.write_checkpoint

    def held(path: Any, data: Any) -> None:
        assert event.wait(60)
        write(path, data)

    monkeypatch.setattr(module, "write_checkpoint", held)
    yield event
    event.set()


class At(Callback):
    """Calls a function after a step."""

    def __init__(self, step: int, function: Any) -> None:
        self.step, self.function = step, function

    def on_step_end(self, trainer: Any) -> None:
        if trainer.state.step == self.step:
            self.function(trainer)


def test_what_is_written_is_the_state_when_it_was_saved(tmp_path: Path, gate: threading.Event) -> None:
    """Three more steps are made before the first byte is written."""
    seen: dict[str, Any] = {}

    def note(trainer: Any) -> None:
        seen.update({name: value.copy() for name, value in tensors(trainer).items()})

    def release(trainer: Any) -> None:
        assert checkpoints_in(tmp_path) == []
        gate.set()

    checkpoint = Checkpoint(tmp_path, keep_last=None, asynchronous=True)
    callbacks = [At(2, note), At(2, checkpoint.save), At(5, release), checkpoint]
    make_trainer(callbacks).fit(SeekableLoader(), max_steps=6)
    resumed = make_trainer([Checkpoint(tmp_path, overwrite=True)], seed=5)
    resumed.fit(SeekableLoader(), max_steps=2, resume=tmp_path / "step-00000002")
    assert_same_bits(seen, tensors(resumed))


def test_an_error_ends_the_run_at_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def fails(path: Any, data: Any) -> None:
        done.set()
        raise StorageError(28, "cannot write: no space left")

    monkeypatch.setattr(module, "write_checkpoint", fails)

    def wait(trainer: Any) -> None:
        assert done.wait(60)
        time.sleep(0.2)  # until the thread has noted the error

    checkpoint = Checkpoint(tmp_path, asynchronous=True)
    callbacks = [At(2, lambda trainer: checkpoint.save(trainer)), At(3, wait), checkpoint]
    trainer = make_trainer(callbacks)
    with pytest.raises(StorageError, match="no space left"):
        trainer.fit(SeekableLoader(), max_steps=9)
    assert trainer.state.step in (2, 3)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def test_a_full_disk_at_the_end_of_the_run_is_an_error(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(StorageError, match="cannot write"):
            make_trainer([Checkpoint(tmp_path, asynchronous=True)]).fit(SeekableLoader(), max_steps=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_waits_for_its_checkpoint(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, asynchronous=True)
    stop = At(3, lambda trainer: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt, match=r"SIGTERM after step 3; checkpoint saved in .*step-00000003"):
        make_trainer([stop, checkpoint]).fit(SeekableLoader(), max_steps=9)
    verify_checkpoint(tmp_path / "step-00000003")


PROGRAM = """
import os, signal, sys, threading
from paddle_infra.train import Checkpoint
from paddle_infra.train.checkpoints import checkpointing
from tests.train.problem import SeekableLoader, make_trainer
checkpoint = Checkpoint(sys.argv[1], every_steps=1, asynchronous=True)
sizes = []
replace = os.rename
def killed(source, target):
    sizes.append(target)
    if len(sizes) == 3:  # in the thread, when everything is written but the last
        assert threading.current_thread() is not threading.main_thread()
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(source, target)
os.rename = os.replace = killed
make_trainer([checkpoint]).fit(SeekableLoader(), max_steps=9)
"""


def test_killed_while_it_is_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path)], cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL
    for path in checkpoints_in(tmp_path):
        verify_checkpoint(path)
    assert checkpoints_in(tmp_path), "nothing was saved before"
    whole = make_trainer()
    whole.fit(SeekableLoader(), max_steps=6)
    resumed = make_trainer([Checkpoint(tmp_path)], seed=9)
    resumed.fit(SeekableLoader(), max_steps=6, resume="latest")
    assert_same_bits(tensors(whole), tensors(resumed))
    assert not list(tmp_path.glob(".incomplete*"))


def test_one_job_at_a_time_and_every_error_once() -> None:
    background, order = BackgroundJob(), []

    def job(number: int) -> Any:
        return lambda: (time.sleep(0.05), order.append(number))

    for number in range(3):
        background.start(job(number))
    background.wait()
    assert order == [0, 1, 2]
    background.start(lambda: np.testing.assert_equal(1, 2))
    with pytest.raises(AssertionError):
        background.start(job(3))
    background.start(job(4))
    background.close()
    assert order == [0, 1, 2, 4]
