"""Engines that are lent to one call each, because most must not be run by two threads at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.export.engines import Engine


class EnginePool:
    """Lends each of ``engines`` to one caller at a time; others wait for the first that comes back."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._idle = list(engines)
        self.size = len(engines)
        self._is_open = True
        self._changed = threading.Condition()

    @contextmanager
    def borrow(self, count: int = 1) -> Iterator[list[Engine]]:
        """Wait for ``count`` engines, lend them.

        Raises:
            InvalidInputError: the pool is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._idle) >= count or not self._is_open)
            if not self._is_open:
                raise InvalidInputError("predictor: expected an open one, got one that was closed")
            # The last one back is the first one out again: its memory is still in the caches.
            lent = [self._idle.pop() for _ in range(count)]
        try:
            yield lent
        finally:
            with self._changed:
                self._idle.extend(lent)
                self._changed.notify_all()

    def close(self) -> None:
        """Refuse further calls, wait until none runs, forget the engines."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._idle) in (0, self.size))
            self._idle.clear()
