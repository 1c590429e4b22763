from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from paddle_infra.train import Checkpoint, EarlyStopping, ProgressBar
from paddle_infra.train.progress import _duration
from tests.train.problem import PlainLoader, SeekableLoader, make_trainer


def plain_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_lines_off_a_terminal() -> None:
    console = plain_console()
    trainer = make_trainer([ProgressBar(console=console, interval_s=3600)], accumulate=2)
    trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=2)
    lines = text_of(console).splitlines()
    number = r"\d+\.\d+"
    assert re.fullmatch(
        rf"train 1/14  epoch 1/2  loss {number}  lr 3\.33e-03  {number} samples/s  ETA \d+:\d\d", lines[0]
    )
    assert lines[1:3] == ["evaluate 1/13", "evaluate 13/13"]
    assert re.fullmatch(rf"evaluation after step 7: loss {number}  accuracy {number}  .*", lines[3])
    assert re.match(r"train 14/14  epoch 2/2 .* ETA 0:00", lines[4])
    assert "\x1b" not in text_of(console)


def test_every_step_if_the_interval_has_passed() -> None:
    console = plain_console()
    make_trainer([ProgressBar(console=console, interval_s=0.0)]).fit(SeekableLoader(), max_steps=5)
    assert [line.split()[1] for line in text_of(console).splitlines()] == [f"{i}/5" for i in range(1, 6)]


def test_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading of the clock comes one second after the last; a step reads it twice (rate, interval)."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))
    console = plain_console()
    make_trainer([ProgressBar(console=console, interval_s=0.0)]).fit(SeekableLoader(), max_steps=13)
    # From the start of the epoch to the first reading of step 12: 23 s, 192 samples; 23 / 12 s per step.
    assert re.search(r"train 12/13 .* 8\.3 samples/s  ETA 0:02", text_of(console))


def test_unknown_length() -> None:
    console = plain_console()
    trainer = make_trainer([ProgressBar(console=console, interval_s=0.0)])
    trainer.fit(iter(list(PlainLoader())[:3]), max_epochs=1)
    assert "train 3  epoch 1/1  loss" in text_of(console)
    assert "ETA" not in text_of(console)


def test_resumed_and_stopped_runs_say_so(tmp_path: Path) -> None:
    make_trainer([Checkpoint(tmp_path)]).fit(SeekableLoader(), SeekableLoader(), max_epochs=1)
    console = plain_console()
    callbacks = [
        Checkpoint(tmp_path),
        ProgressBar(console=console),
        EarlyStopping("loss", min_delta=9.0, patience=1),
    ]
    make_trainer(callbacks).fit(SeekableLoader(), SeekableLoader(), max_epochs=4, resume="latest")
    assert f"resuming after step 13 from {tmp_path}" in text_of(console)
    assert "train 14/52" in text_of(console)
    assert "stopped after step 39: loss has not improved on" in text_of(console)


def test_bar_on_a_terminal_ends_clean() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)
    trainer = make_trainer([ProgressBar(console=console)])
    trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=1)
    trainer.evaluate(SeekableLoader())
    text = text_of(console)
    assert "13/13" in text
    assert "evaluation after step 13" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 2  # the cursor was hidden and is shown again


def test_bar_ends_clean_after_an_error() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)
    trainer = make_trainer([ProgressBar(console=console)], training_step=lambda model, batch: None)
    with pytest.raises(ValueError, match="expected a scalar loss tensor"):
        trainer.fit(SeekableLoader(), max_epochs=1)
    assert text_of(console).count("\x1b[?25l") == text_of(console).count("\x1b[?25h") == 1


def test_duration() -> None:
    assert [_duration(s) for s in (0.4, 59.6, 61, 3599.9, 36000)] == [
        "0:00",
        "1:00",
        "1:01",
        "1:00:00",
        "10:00:00",
    ]
