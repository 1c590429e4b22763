"""Progress of a run: a live bar on a terminal or in a notebook, plain lines everywhere else (pipes, log files, CI)."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from paddle_infra.train.callbacks import Callback

if TYPE_CHECKING:
    from rich.console import Console

    from paddle_infra.train.trainer import Trainer

_RATE_STEPS = 50  # the speed is that of so many last steps
_WIDE = 100  # columns from which on there is room for a long bar


class ProgressBar(Callback):
    """Shows step, epoch, loss, learning rate, samples per second and the time left.

    Also the number of windows that were skipped, if any were, and the gradient norm, if something measures it.

    There is a live bar on a terminal, and in a notebook that has ipywidgets. Everywhere else there are plain lines
    without control codes: in a pipe or a file, on a dumb terminal, in a notebook without ipywidgets, and where
    the variable ``CI`` is set, even if colours are forced or the job has a terminal.

    Of several processes only number 0 shows anything.

    Args:
        console: a ``rich`` console, which then decides alone whether it is a terminal; None writes to standard
            error.
        interval_s: seconds between two lines where there is no terminal. The first and the last step of each
            part are always shown.
    """

    def __init__(self, *, console: Console | None = None, interval_s: float = 10.0) -> None:
        self._console, self._interval_s = console, interval_s
        self._display: _Display | None = None
        self._evaluated = 0
        self._eval_batches: int | None = None
        self._is_fit = False
        self._unshown: list[dict[str, float]] = []

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Start the bar, where the run resumes."""
        self._is_fit = True
        if trainer.resumed_from is not None:
            self._open(trainer).note(f"resuming after step {trainer.state.step} from {trainer.resumed_from}")
        self._open(trainer).start("train", trainer.state.step, trainer.total_steps)

    def on_epoch_begin(self, trainer: Trainer) -> None:
        """Start measuring the speed: the time of validations and checkpoints does not count."""
        self._times = deque(
            [(time.monotonic(), trainer.state.step, trainer.state.samples)], maxlen=_RATE_STEPS + 1
        )

    def on_step_end(self, trainer: Trainer) -> None:
        """Advance."""
        self._times.append((time.monotonic(), trainer.state.step, trainer.state.samples))
        self._open(trainer).advance("train", trainer.state.step, trainer.total_steps, self._describe(trainer))

    def on_evaluate_begin(self, trainer: Trainer, batches: int | None) -> None:
        """Start the bar of the evaluation."""
        share = None if batches is None else math.ceil(batches / trainer.strategy.ranks)  # of process 0
        self._evaluated, self._eval_batches = 0, share
        self._open(trainer).start("evaluate", 0, share)

    def on_evaluate_batch(self, trainer: Trainer) -> None:
        """Advance."""
        self._evaluated += 1
        self._open(trainer).advance("evaluate", self._evaluated, self._eval_batches, "")

    def on_evaluate_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Show the metrics; within ``fit`` not before it is known which evaluation set they belong to."""
        self._open(trainer).finish("evaluate")
        self._unshown.append(metrics)
        if not self._is_fit:
            self._show_evaluations(trainer)

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Show the metrics of each evaluation set on a line of its own."""
        shown = 0
        while self._unshown and shown < len(metrics):  # those that were made for this validation
            shown += len(self._unshown.pop())
        self._show_evaluations(trainer)  # those that callbacks made
        sets: dict[str, dict[str, float]] = {}
        for name, value in metrics.items():
            key, _, metric = name.rpartition("/")
            sets.setdefault(key, {})[metric] = value
        for key, values in sets.items():
            self._show(trainer, f" on {key}" if key else "", values)

    def on_fit_end(self, trainer: Trainer) -> None:
        """Say why the run ended, if not as planned."""
        if trainer.state.stop_reason is not None:
            self._open(trainer).note(f"stopped after step {trainer.state.step}: {trainer.state.stop_reason}")

    def on_close(self, trainer: Trainer) -> None:
        """Leave the terminal as it was."""
        self._is_fit = False
        self._show_evaluations(trainer)
        if self._display is not None:
            self._display.close()
            self._display = None

    def _show_evaluations(self, trainer: Trainer) -> None:
        evaluations, self._unshown = self._unshown, []
        for metrics in evaluations:
            self._show(trainer, "", metrics)

    def _show(self, trainer: Trainer, where: str, metrics: dict[str, float]) -> None:
        values = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._open(trainer).note(f"evaluation{where} after step {trainer.state.step}: {values}")

    def _describe(self, trainer: Trainer) -> str:
        state = trainer.state
        (t0, step0, samples0), (t1, step1, samples1) = self._times[0], self._times[-1]
        seconds = max(t1 - t0, 1e-9)
        epochs = "" if trainer.max_epochs is None else f"/{trainer.max_epochs}"
        parts = [
            f"epoch {state.epoch + 1}{epochs}",
            f"loss {state.loss:.4f}",
            *([] if state.grad_norm is None else [f"norm {state.grad_norm:.2e}"]),
            f"lr {state.learning_rate:.2e}",
            f"{(samples1 - samples0) / seconds:.1f} samples/s",
        ]
        if state.skipped:
            parts.insert(1, f"skipped {state.skipped}")
        if trainer.total_steps is not None:
            left = max(trainer.total_steps - state.step, 0) * seconds / (step1 - step0)
            parts.append(f"ETA {_duration(left)}")
        return "  ".join(parts)

    def _open(self, trainer: Trainer) -> _Display:
        if trainer.strategy.rank > 0:
            return _Silence()
        if self._display is None:
            from rich.console import Console

            console = self._console or Console(stderr=True)
            is_live = _is_live(console, is_given=self._console is not None)
            self._display = _Bar(console) if is_live else _Lines(console, self._interval_s)
        return self._display


def _is_live(console: Console, *, is_given: bool) -> bool:
    """Return whether lines can be rewritten on ``console``."""
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    # rich takes FORCE_COLOR for a terminal, and a log with colours still cannot be rewritten.
    is_log = not is_given and (not console.file.isatty() or bool(os.environ.get("CI")))
    return console.is_terminal and not console.is_dumb_terminal and not is_log


class _Display(Protocol):
    """One way to show progress; ``total`` is None where it is unknown."""

    def start(self, label: str, done: int, total: int | None) -> None: ...
    def advance(self, label: str, done: int, total: int | None, text: str) -> None: ...
    def finish(self, label: str) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class _Silence:
    """Shows nothing: the display of all processes but number 0."""

    def start(self, label: str, done: int, total: int | None) -> None:
        pass

    def advance(self, label: str, done: int, total: int | None, text: str) -> None:
        pass

    def finish(self, label: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines:
    """Plain lines: the first, the last, and one per interval."""

    def __init__(self, console: Console, interval_s: float) -> None:
        self._console, self._interval_s = console, interval_s
        self._next: dict[str, float] = {}

    def start(self, label: str, done: int, total: int | None) -> None:
        self._next[label] = time.monotonic()  # the first advance is shown

    def advance(self, label: str, done: int, total: int | None, text: str) -> None:
        now = time.monotonic()
        if now >= self._next[label] or done == total:
            of = "" if total is None else f"/{total}"
            self.note(f"{label} {done}{of}  {text}".rstrip())
            self._next[label] = now + self._interval_s

    def finish(self, label: str) -> None:
        pass

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        pass


class _Bar:
    """A live ``rich`` bar."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
        from rich.table import Column
        from rich.text import Text

        class Numbers(ProgressColumn):
            """Gives way on a narrow terminal: a bar is one line, the rest is cut off."""

            def render(self, task: Task) -> Text:
                return Text(task.fields["text"], no_wrap=True, overflow="ellipsis")

        columns: tuple[Any, ...] = (
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(24 if console.width >= _WIDE else 8, table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            Numbers(),
        )
        self._progress = Progress(*columns, console=console, refresh_per_second=4)
        self._tasks: dict[str, Any] = {}
        self._progress.start()

    def start(self, label: str, done: int, total: int | None) -> None:
        self._tasks[label] = self._progress.add_task(label, total=total, completed=done, text="")

    def advance(self, label: str, done: int, total: int | None, text: str) -> None:
        self._progress.update(self._tasks[label], completed=done, total=total, text=text)

    def finish(self, label: str) -> None:
        self._progress.remove_task(self._tasks.pop(label))

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.refresh()  # stop() does not in a notebook
        self._progress.stop()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
