"""Batches of an epoch, in an order that any process can reproduce and enter in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.data._batch_maker import BatchMaker, Dataset
from paddle_infra.data._workers import Job, WorkerPool

__all__ = ["BatchSampler", "Dataset", "Loader"]


class BatchSampler(Protocol):
    """Anything that lists the batches of an epoch, the same for the same epoch."""

    def __len__(self) -> int: ...

    def batches(self, epoch: int, /) -> list[list[int]]:
        """Return lists of sample indices."""
        ...


class Loader:
    """Read, collate and yield batches, in this process or ahead of it in others.

    The batches and their order are those of the sampler, whatever the number of workers and their speed. The
    global generators of Python and NumPy are seeded for each batch from (``seed``, epoch, number of the batch)
    while it is read and collated, and put back afterwards: random augmentation that draws from them gives the
    same bits with any number of workers, in any number of training processes, and after a resume in the middle.
    (A generator of the dataset's own does not: let it depend on the index, or draw from the global ones.)

    A fault in the data ends the iteration with an error that names the sample, and so does the death of a
    worker; nothing can hang.

    With workers, the dataset and the collate function are pickled once for each of them: what one remembers (a
    cache, an open file, a count) the others and this process do not see. A script that uses workers must do its
    work under ``if __name__ == "__main__":``, because they import it. They start with the first iteration, serve
    every epoch that is iterated to its end, and are ended by :meth:`close`, by an iteration that is left early,
    and with the loader or this process, also if that is killed.

    Args:
        dataset: the samples.
        sampler: which samples form a batch; see :class:`paddle_infra.data.LengthBucketSampler`.
        collate: makes a batch of a list of samples.
        workers: number of processes that read and collate; 0 does it in this one, when a batch is asked for.
        prefetch: how many batches each worker makes ahead. Up to ``workers * prefetch`` batches are in memory.
        seed: of the random numbers that the dataset and the collate function draw, >= 0.
        with_ids: whether to add to each batch, a dict, the key ``ids`` with the indices of its samples, int64
            [B]. The Trainer's errors name them.

    Raises:
        InvalidInputError: the sampler was made for another number of samples, or a number is out of range.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: BatchSampler,
        collate: Callable[[list[Any]], Any],
        *,
        workers: int = 0,
        prefetch: int = 2,
        seed: int = 0,
        with_ids: bool = False,
    ) -> None:
        expected = getattr(sampler, "num_samples", len(dataset))
        if expected != len(dataset):
            raise InvalidInputError(
                f"expected a sampler for the dataset's {len(dataset)} samples, it was made for {expected}"
            )
        for name, value, least in (("workers", workers, 0), ("prefetch", prefetch, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidInputError(f"Loader: expected {name} to be an integer >= {least}, got {value!r}")
        self._sampler, self._maker = sampler, BatchMaker(dataset, collate, seed, with_ids)
        self._workers, self._prefetch = workers, prefetch
        self._idle: WorkerPool | None = None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over epoch 0. For training use :meth:`iterate`: here every pass has the same order."""
        return self.iterate(0)

    def iterate(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[Any]:
        """Return an iterator over every ``step``-th batch of an epoch from ``start`` on; others are not read.

        Raises:
            InvalidInputError: a negative epoch or ``start``, or ``step`` below 1 (raised by this call, not
                later); or the dataset cannot be pickled for the workers (raised by the iterator).
            SampleError: reading or collating failed, or a worker died (raised by the iterator, with the cause
                chained: for a worker its traceback). Workers are ahead, so that a fault may be reported some
                batches before its turn.
        """
        batches = self._sampler.batches(epoch)
        if start < 0 or step < 1 or (step == 1 and start > len(batches)):
            raise InvalidInputError(
                f"expected start from 0 to {len(batches)} and step >= 1, got {start} and {step}"
            )
        jobs = list(enumerate(batches))[start::step]
        if self._workers and jobs:
            return self._iterate_in_workers(epoch, jobs)
        return (self._maker.make(epoch, batch, indices) for batch, indices in jobs)

    def close(self) -> None:
        """End the worker processes that wait for the next epoch, if there are any."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def _iterate_in_workers(self, epoch: int, jobs: Sequence[Job]) -> Iterator[Any]:
        # Two iterations at once have a pool each.
        pool, self._idle = self._idle or WorkerPool(self._maker, self._workers, self._prefetch), None
        try:
            yield from pool.run(epoch, jobs)
        except BaseException:  # also left early: what was made ahead would be mistaken for the next epoch's
            pool.close()
            raise
        self.close()
        self._idle = pool
