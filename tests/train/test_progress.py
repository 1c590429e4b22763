from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import re
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from paddle_infra.train import Callback, Checkpoint, EarlyStopping, ProgressBar
from paddle_infra.train.progress import _duration
from tests.train.problem import PlainLoader, SeekableLoader, make_trainer, training_step


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
    rate = rf"lr 3\.33e-03  {number} samples/s  ETA \d+:\d\d"
    assert re.fullmatch(rf"train 1/14  epoch 1/2  loss {number}  norm \d\.\d\de[-+]\d\d  {rate}", lines[0])
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


class Screen:
    """The screen after what was written to it: a terminal that knows what rich uses."""

    def __init__(self, text: str) -> None:
        self.lines, row, column = [""], 0, 0
        for match in re.finditer(r"\x1b\[(?P<number>[?0-9;]*)(?P<command>[A-Za-z])|(?P<letter>[\s\S])", text):
            letter, command = match["letter"], match["command"]
            if letter == "\n":
                row, column = row + 1, 0
                self.lines += [""] * (row + 1 - len(self.lines))
            elif letter == "\r":
                column = 0
            elif letter is not None:
                line = self.lines[row].ljust(column)
                self.lines[row], column = line[:column] + letter + line[column + 1 :], column + 1
            elif command == "A":
                row -= int(match["number"])
                assert row >= 0
            elif command == "K":
                assert match["number"] == "2"
                self.lines[row] = ""
            else:
                assert command in "hlm", match[0]  # the cursor is hidden or shown; colours


@pytest.mark.parametrize("width", [40, 80, 160])
def test_final_screen_has_every_line_once(width: int) -> None:
    console = Console(
        file=io.StringIO(),
        force_terminal=True,
        width=width,
        height=25,
        legacy_windows=False,
        color_system=None,
    )
    trainer = make_trainer([ProgressBar(console=console)], accumulate=2)
    sets = {"easy": SeekableLoader(), "hard": SeekableLoader()}
    trainer.fit(SeekableLoader(), sets, max_epochs=3)
    lines = [line.rstrip() for line in Screen(text_of(console)).lines if line.strip()]
    starts = [line for line in lines if line.startswith(("evaluation", "train", "evaluate "))]
    assert [line.split(":")[0] for line in starts[:-1]] == [
        f"evaluation on {name} after step {step}" for step in (7, 14, 21) for name in sets
    ]
    assert re.match(r"train ━+ 21/21 ", starts[-1])
    assert starts[-1] == lines[-1]
    if width == 160:
        assert len(lines) == 7
        assert re.search(r"epoch 3/3  loss \S+  norm \S+  lr \S+  \S+ samples/s  ETA 0:00$", lines[-1])


def test_bar_lets_other_lines_through(capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed during a run stands above the bar, once."""

    class Prints(Callback):
        def on_step_end(self, trainer: object) -> None:
            print("printed")

    console = Console(
        file=io.StringIO(), force_terminal=True, width=80, legacy_windows=False, color_system=None
    )
    make_trainer([ProgressBar(console=console), Prints()]).fit(SeekableLoader(), max_steps=3)
    lines = [line.rstrip() for line in Screen(text_of(console)).lines if line.strip()]
    assert lines[:3] == ["printed"] * 3
    assert len(lines) == 4
    assert capsys.readouterr().out == ""


def test_evaluations_of_callbacks_are_shown() -> None:
    class Evaluates(Callback):
        def on_step_end(self, trainer: Any) -> None:
            trainer.evaluate(SeekableLoader())

    console = plain_console()
    trainer = make_trainer([ProgressBar(console=console), Evaluates()])
    trainer.fit(SeekableLoader(), {"a": SeekableLoader(), "b": SeekableLoader()}, max_steps=1)
    shown = [line.split(":")[0] for line in text_of(console).splitlines() if line.startswith("evaluation")]
    assert shown == [f"evaluation{where} after step 1" for where in ("", " on a", " on b")]


class Stream(io.StringIO):
    """Standard error, as a terminal or not."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.mark.parametrize(
    ("is_terminal", "variables", "is_live"),
    [
        (True, {}, True),
        (False, {}, False),
        (False, {"FORCE_COLOR": "1"}, False),
        (False, {"TTY_COMPATIBLE": "1", "CI": "true"}, False),
        (True, {"CI": "true"}, False),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_where_there_is_a_bar(
    is_terminal: bool, variables: dict[str, str], is_live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CI", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | variables).items():
        monkeypatch.setenv(name, value)
    stream = Stream(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    make_trainer([ProgressBar()]).fit(SeekableLoader(), SeekableLoader(), max_steps=2)
    assert ("\x1b" in stream.getvalue()) == is_live
    if not is_live:
        assert [line.split("  ")[0] for line in stream.getvalue().splitlines()] == [
            "train 1/2",
            "train 2/2",
            "evaluate 1/13",
            "evaluate 13/13",
            next(line for line in stream.getvalue().splitlines() if line.startswith("evaluation")).split(
                "  "
            )[0],
        ]


@pytest.mark.parametrize("has_widgets", [True, False])
def test_notebook(has_widgets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ipywidgets one output is rewritten; without, lines are displayed one after the other."""
    displayed: list[str] = []

    class Output:
        def __enter__(self) -> None:
            displayed.append("[")

        def __exit__(self, *error: object) -> None:
            displayed.append("]")

        def clear_output(self, wait: bool) -> None:
            displayed.append("clear")

    def display(value: Any) -> None:
        displayed.append("widget" if isinstance(value, Output) else value.text)

    for name, content in (
        ("IPython", {}),
        ("IPython.display", {"display": display}),
        ("ipywidgets", {"Output": Output}),
    ):
        module: Any = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module if has_widgets or name != "ipywidgets" else None)
    if not has_widgets:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    console = Console(force_jupyter=True, width=120)
    make_trainer([ProgressBar(console=console)]).fit(SeekableLoader(), SeekableLoader(), max_steps=2)
    if has_widgets:
        assert displayed.count("widget") == 1
        inside = "".join(displayed[len(displayed) - 1 - displayed[::-1].index("[") :])
        assert "2/2" in inside  # the last state stays
        assert "evaluate" not in inside
    else:
        lines = [text.split("  ")[0].strip() for text in displayed if text.strip()]
        assert lines[:4] == ["train 1/2", "train 2/2", "evaluate 1/13", "evaluate 13/13"]
        assert lines[4].startswith("evaluation after step 2: loss")


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


def test_skipped_windows_are_counted() -> None:
    def step(model: Any, batch: Any) -> Any:
        calls.append(0)
        return training_step(model, batch) * (float("nan") if len(calls) in (2, 4) else 1.0)

    calls: list[int] = []
    console = plain_console()
    bar = ProgressBar(console=console, interval_s=0)
    make_trainer([bar], training_step=step, non_finite="skip").fit(SeekableLoader(), max_steps=3)
    lines = text_of(console).splitlines()
    assert [re.search(r"epoch 1  (skipped \d|loss)", line)[1] for line in lines] == [  # type: ignore[index]
        "loss",
        "skipped 1",
        "skipped 2",
    ]
