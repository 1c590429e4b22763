"""Ctrl-C and SIGTERM as a request to stop at the next safe point."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by a signal at a step boundary, after saving a checkpoint.

    It derives from ``KeyboardInterrupt`` so that ``except Exception`` does not swallow it. A command line
    should print it and exit with :attr:`exit_code`.

    Attributes:
        signal_name: "SIGINT" or "SIGTERM".
        step: completed steps.
        checkpoint: the checkpoint that was saved; None until it is.
    """

    exit_code = 130

    def __init__(self, signal_name: str, step: int) -> None:
        super().__init__(signal_name, step)
        self.signal_name, self.step = signal_name, step
        self.checkpoint: Path | None = None

    def __str__(self) -> str:
        saved = (
            "no checkpoint was saved" if self.checkpoint is None else f"checkpoint saved in {self.checkpoint}"
        )
        return f"training stopped by {self.signal_name} after step {self.step}; {saved}"


class InterruptWatch:
    """Turns the first SIGINT or SIGTERM into a flag; a second one raises ``KeyboardInterrupt`` at once.

    Signals reach only the main thread: in any other, :meth:`install` does nothing.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Take over SIGINT and SIGTERM."""
        self.signal_name = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Give the signals back to whoever had them before."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal_name is not None:
            raise KeyboardInterrupt(f"second signal ({name}): stopped at once, without a checkpoint")
        self.signal_name = name
        # os.write, because a signal may arrive in the middle of a print
        os.write(
            2, f"\n{name}: finishing this step, then saving a checkpoint (again: stop at once)\n".encode()
        )
