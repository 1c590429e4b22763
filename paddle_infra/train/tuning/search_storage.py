"""Where the trials of a search are kept, and how a worker that died is told from one that is busy."""

from __future__ import annotations

import os
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from paddle_infra._core.errors import InvalidInputError
from paddle_infra._core.extras import require

MISSED_BEATS = 4  # a worker whose last sign of life is older than so many intervals is dead


@dataclass(frozen=True)
class SearchStorage:
    """A study that several processes and machines can work on.

    Args:
        location: path of a journal file (on a file system that all workers share), or the URL of a database
            such as ``postgresql://…`` or ``sqlite:///search.db``; None keeps the trials in memory.
        name: name of the study; a location may hold several.
        heartbeat_s: how often a worker gives a sign of life. One that has given none for four times as long
            is taken for dead, and its trial is run again. (On the same machine a dead process is seen at once.)
        retries: how often a trial is run again after its process died or an error ended it.

    Raises:
        InvalidInputError: a bad interval or number of retries.
    """

    location: str | os.PathLike[str] | None = None
    name: str = "search"
    heartbeat_s: int = 30
    retries: int = 2

    def __post_init__(self) -> None:
        if self.heartbeat_s < 1 or self.retries < 0:
            raise InvalidInputError(
                f"SearchStorage: expected heartbeat_s >= 1 and retries >= 0, got {self.heartbeat_s} and {self.retries}"
            )

    @property
    def journal(self) -> Path | None:
        """The journal file, or None if the location is none."""
        if self.location is None or "://" in str(self.location):
            return None
        return Path(self.location)

    def open(self) -> Any:
        """Return an Optuna storage; a journal file and its folder are created if missing."""
        optuna = require("optuna", extra="search", purpose="hyperparameter search")
        if self.location is None:
            return optuna.storages.InMemoryStorage()
        if self.journal is not None:
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            backend = optuna.storages.journal.JournalFileBackend(str(self.journal))
            return optuna.storages.JournalStorage(backend)
        url = str(self.location)
        # A worker waits its turn instead of failing with "database is locked".
        options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
        with quiet_experiments(optuna):
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=self.heartbeat_s,
                grace_period=MISSED_BEATS * self.heartbeat_s,
            )


@contextmanager
def quiet_experiments(optuna: Any) -> Iterator[None]:
    """Silence Optuna's remark that heartbeats are experimental; everything else is still heard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class Worker:
    """This process as one of the workers of a study.

    A database keeps the heartbeats of Optuna. Beside a journal file a folder ``<journal>.workers`` holds a
    file per living worker, which a thread touches; ages are differences of times that one file system gave,
    so clocks of machines that disagree do no harm.

    Attributes:
        identity: recorded with each of its trials. It names boot, process namespace and process.
    """

    def __init__(self, storage: SearchStorage) -> None:
        self._storage = storage
        self.identity = f"{_machine()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        journal = storage.journal
        self._folder = None if journal is None else journal.with_name(f"{journal.name}.workers")
        self._ended = threading.Event()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Give signs of life inside the context."""
        if self._folder is None:
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / self.identity
        file.touch()
        thread = threading.Thread(target=self._beat, args=(file,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            file.unlink(missing_ok=True)

    def is_dead(self, identity: str | None, started: datetime | None) -> bool:
        """Return whether the worker of a running trial will never finish it.

        Args:
            identity: the worker's; None if it had no time to record it.
            started: start of the trial.
        """
        patience = MISSED_BEATS * self._storage.heartbeat_s
        if identity is None:
            age = 0.0 if started is None else time.time() - started.timestamp()
            return self._folder is not None and age > patience
        machine, process, _ = identity.split(".")
        if machine == _machine() and not _exists(int(process)):
            if self._folder is not None:
                (self._folder / identity).unlink(missing_ok=True)
            return True
        if self._folder is None:
            return False  # the database knows
        own, other = self._folder / self.identity, self._folder / identity
        try:
            last = other.stat().st_mtime
        except FileNotFoundError:
            return True  # it has ended, and would have finished its trial first
        own.touch()
        return own.stat().st_mtime - last > patience

    def _beat(self, file: Path) -> None:
        while not self._ended.wait(self._storage.heartbeat_s):
            file.touch()


def _machine() -> str:
    """Name the set of processes among which a process number is unique; unknown is nobody else's."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"unknown-{uuid.uuid4().hex}"


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
