"""How a fetch reports what it is doing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_LOG = logging.getLogger("paddle_infra.data.resources")


@dataclass(frozen=True)
class FetchProgress:
    """One report of :func:`paddle_infra.data.resources.fetch`.

    Attributes:
        name: name of the resource.
        stage: ``"wait"`` (another process is fetching it), ``"repair"`` (the cached copy is unusable:
            ``message`` says why), ``"download"``, ``"verify"``, ``"unpack"``, ``"convert"`` or ``"done"``.
        done_bytes: bytes handled so far in this stage.
        total_bytes: bytes to handle in this stage, ``None`` if unknown.
        message: more words, or empty.
    """

    name: str
    stage: str
    done_bytes: int = 0
    total_bytes: int | None = None
    message: str = ""


ProgressCallback = Callable[[FetchProgress], None]


@contextmanager
def reporting(callback: ProgressCallback | None) -> Iterator[ProgressCallback]:
    """Yield the callback, or else a one-line display on a terminal, or else one log line per stage."""
    if callback is not None:
        yield callback
    elif not sys.stderr.isatty():
        yield _LogStages()
    else:
        line = _TerminalLine()
        try:
            yield line
        finally:
            line.close()


class _LogStages:
    """One INFO line whenever the stage changes: nothing that floods a log file."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, event: FetchProgress) -> None:
        if event.stage != self._stage:
            self._stage = event.stage
            _LOG.info("%s: %s%s", event.name, event.stage, f" ({event.message})" if event.message else "")


class _TerminalLine:
    """One line per stage on stderr, rewritten in place."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, event: FetchProgress) -> None:
        if event.stage != self._stage:
            self.close()
            self._stage = event.stage
        text = f"{event.name}: {event.stage}"
        if event.total_bytes:
            done, total = event.done_bytes / 1e6, event.total_bytes / 1e6
            text += f" {done:.1f}/{total:.1f} MB ({min(1.0, done / total):.0%})"
        if event.message:
            text += f" ({event.message})"
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()

    def close(self) -> None:
        if self._stage:
            sys.stderr.write("\n")
            sys.stderr.flush()
            self._stage = ""
