"""Processes that make batches, in an order that does not depend on their speed.

Workers are forked by multiprocessing's "forkserver": a process that has imported this package and nothing else.
The training process itself is never forked, because a fork copies the memory but only one of the threads: a lock
that another thread holds at that moment (of Paddle, of CUDA, of a logger) stays locked in the child for ever. The
server holds no such thread; "spawn" would be as safe, but each worker would import Paddle anew (a second, 300 MB).

Each worker has a pipe of its own and no lock is shared, so that one which is killed in the middle of a message
cannot block the others: its pipe ends, and that is noticed at once.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

from paddle_infra._core.errors import InvalidInputError, SampleError
from paddle_infra.data._batch_maker import BatchMaker

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE_S = 1.0  # for the sample that is being read when the pool is closed
_LOOK_S = 1.0  # a worker's own children can keep its pipe open after its death: look for that besides

Job = tuple[int, Sequence[int]]
"""Number of a batch in its epoch, and the samples in it."""


class WorkerTraceback(Exception):  # noqa: N818 - not an error of its own: it shows another one
    """The traceback of an exception in a worker, as the cause of the exception in the main process."""

    def __str__(self) -> str:
        return f"in a worker process:\n{self.args[0]}"


class WorkerPool:
    """Some processes with a copy of a batch maker each.

    Args:
        maker: makes the batches.
        workers: number of processes.
        prefetch: batches per process that are made ahead.

    Raises:
        InvalidInputError: the maker cannot be pickled.
    """

    def __init__(self, maker: BatchMaker, workers: int, prefetch: int) -> None:
        try:
            payload = bytes(ForkingPickler.dumps(maker))
        except Exception as error:  # pickle raises whatever the object's own methods raise
            raise InvalidInputError(
                "workers: expected a dataset and a collate function that can be pickled (classes and functions "
                f"at the top level of a module), got {type(error).__name__}: {error}"
            ) from error
        self._capacity = workers * prefetch
        self._workers: list[_Worker] = []
        # An abandoned pool must not live on: the finalizer knows the list, not the pool.
        self.close = weakref.finalize(self, _close_all, self._workers)
        context = multiprocessing.get_context("forkserver")
        # Not the default, "__main__": a script may have started threads when it has been imported.
        context.set_forkserver_preload([__name__])
        resource_tracker.ensure_running()  # it would unblock the signals below
        # Born with the signals blocked: Ctrl-C reaches every process of a terminal, also one that is starting.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for number in range(workers):
                self._workers.append(_Worker(context, number))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for worker in self._workers:
            worker.send(payload)

    def run(self, epoch: int, jobs: Sequence[Job]) -> Iterator[Any]:
        """Yield the batches of ``jobs`` in that order, each worker making every N-th.

        Raises:
            SampleError: reading or collating failed in a worker, whose traceback is chained, or a worker
                died. The pool must be closed then.
            InvalidInputError: a worker could not be given the dataset or could not send a batch.
        """
        done: dict[int, Any] = {}
        for position in range(min(self._capacity, len(jobs))):
            self._assign(epoch, position, jobs)
        for position in range(len(jobs)):
            self._receive(done, timeout_s=0)  # faults that are already known, even of later batches
            while position not in done:
                self._receive(done, timeout_s=_LOOK_S)
            if position + self._capacity < len(jobs):
                self._assign(epoch, position + self._capacity, jobs)
            yield done.pop(position)

    def _assign(self, epoch: int, position: int, jobs: Sequence[Job]) -> None:
        self._workers[position % len(self._workers)].assign(position, epoch, *jobs[position])

    def _receive(self, done: dict[int, Any], timeout_s: float) -> None:
        """Wait until there is something to receive, then receive all there is."""
        ready = wait([worker.connection for worker in self._workers], timeout_s)
        for worker in self._workers:
            if worker.connection in ready:
                worker.receive(done)
            elif not ready:
                worker.check_alive()


class _Worker:
    """One process as the main process sees it."""

    def __init__(self, context: Any, number: int) -> None:
        self.number = number
        self.jobs: dict[int, Job] = {}  # assigned, not received
        self.connection, theirs = context.Pipe()
        self._reading = context.RawArray("q", [-1, -1])  # position of the job, index of the sample
        # A daemon: multiprocessing ends it when the main process exits.
        self.process = context.Process(target=_work, args=(theirs, self._reading), daemon=True)
        try:
            self.process.start()
        finally:
            theirs.close()  # so that the pipe ends with the worker

    def send(self, message: bytes) -> None:
        try:
            self.connection.send_bytes(message)
        except OSError as error:
            raise self._died() from error

    def assign(self, position: int, epoch: int, batch: int, indices: Sequence[int]) -> None:
        self.jobs[position] = batch, indices
        self.send(pickle.dumps((position, epoch, batch, list(indices))))

    def receive(self, done: dict[int, Any]) -> None:
        while self.connection.poll():
            try:
                position, batch, failure = pickle.loads(self.connection.recv_bytes())
            except (EOFError, OSError) as error:
                raise self._died() from error
            if failure is not None:
                kind, message, trace = failure
                raise kind(message) from WorkerTraceback(trace)
            del self.jobs[position]
            done[position] = batch

    def check_alive(self) -> None:
        if self.process.exitcode is not None and not self.connection.poll():
            raise self._died()

    def _died(self) -> SampleError:
        """Say what the worker was doing when it ended, without having been asked to."""
        self.process.join(_GRACE_S)
        position, sample = self._reading
        code = self.process.exitcode
        if code is None:
            how = "closed its pipe"
        elif code < 0:
            name = signal.Signals(-code).name
            how = f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        else:
            how = f"exited with code {code}"
        if position < 0:
            return SampleError(
                f"worker {self.number} {how} before its first batch; expected it to go on until it is closed. A "
                'script that uses workers must do its work under `if __name__ == "__main__":`'
            )
        if position not in self.jobs:
            doing = "between two batches"
        elif sample < 0:
            doing = f"while it collated the samples {list(self.jobs[position][1])}"
        else:
            doing = f"while it read sample {sample}"
        return SampleError(f"worker {self.number} {how} {doing}; expected it to go on until it is closed")


def _close_all(workers: list[_Worker]) -> None:
    """End the processes: politely, then by force."""
    for worker in workers:
        worker.connection.close()  # a worker that waits for a job ends by itself
    deadline = time.monotonic() + _GRACE_S
    for worker in workers:
        worker.process.join(max(deadline - time.monotonic(), 0))
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()
    workers.clear()


def _work(connection: Connection, reading: Any) -> None:
    """Make batches until the pipe is closed or the main process is no more."""
    for number in _SIGNALS:  # the main process decides what they mean
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()
    outbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # A thread sends, so that the next batch is made while the main process has no time to receive this one.
    threading.Thread(target=_send_all, args=(connection, outbox), daemon=True).start()
    maker: BatchMaker | None = None
    while True:
        try:
            message = connection.recv_bytes()
        except (EOFError, OSError):
            return
        position, batch, failure = -1, None, None
        try:
            if maker is None:
                maker = pickle.loads(message)
                continue
            position, epoch, number, indices = pickle.loads(message)

            def note(index: int, position: int = position) -> None:
                reading[0], reading[1] = position, index

            batch = maker.make(epoch, number, indices, note)
            answer = bytes(ForkingPickler.dumps((position, batch, None)))
        except Exception as error:
            failure = _describe(error, maker)
            answer = pickle.dumps((position, None, failure))
        outbox.put(answer)


def _end_with_the_main_process() -> None:
    """End at once if the main process is killed, also in the middle of a sample."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _describe(error: Exception, maker: BatchMaker | None) -> tuple[type[Exception], str, str]:
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, (SampleError, InvalidInputError)):
        return type(error), str(error), trace
    what = "load the dataset and the collate function" if maker is None else "send the batch"
    return InvalidInputError, f"a worker could not {what}: {type(error).__name__}: {error}", trace


def _send_all(connection: Connection, outbox: queue.SimpleQueue[bytes]) -> None:
    try:
        while True:
            connection.send_bytes(outbox.get())
    except OSError:  # the main process has closed the pipe; the other thread sees the same
        return
