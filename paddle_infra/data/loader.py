"""Batches of an epoch, in an order that any process can reproduce and enter in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from paddle_infra._core.errors import InvalidInputError, SampleError


class Dataset(Protocol):
    """Anything with a length that returns a sample for an index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class BatchSampler(Protocol):
    """Anything that lists the batches of an epoch, the same for the same epoch."""

    def __len__(self) -> int: ...

    def batches(self, epoch: int, /) -> list[list[int]]:
        """Return lists of sample indices."""
        ...


class Loader:
    """Read, collate and yield batches in this process, one after another.

    A fault in the data ends the iteration at once with an error that names the sample; nothing can hang.

    Args:
        dataset: the samples.
        sampler: which samples form a batch; see :class:`paddle_infra.data.LengthBucketSampler`.
        collate: makes a batch of a list of samples.

    Raises:
        InvalidInputError: the sampler was made for another number of samples.
    """

    def __init__(self, dataset: Dataset, sampler: BatchSampler, collate: Callable[[list[Any]], Any]) -> None:
        expected = getattr(sampler, "num_samples", len(dataset))
        if expected != len(dataset):
            raise InvalidInputError(
                f"expected a sampler for the dataset's {len(dataset)} samples, it was made for {expected}"
            )
        self._dataset, self._sampler, self._collate = dataset, sampler, collate

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
                later).
            SampleError: reading or collating failed (raised by the iterator, the cause is chained).
        """
        batches = self._sampler.batches(epoch)
        if start < 0 or step < 1 or (step == 1 and start > len(batches)):
            raise InvalidInputError(
                f"expected start from 0 to {len(batches)} and step >= 1, got {start} and {step}"
            )
        return (self._load(indices) for indices in batches[start::step])

    def _load(self, indices: Sequence[int]) -> Any:
        samples = []
        for index in indices:
            try:
                samples.append(self._dataset[index])
            except Exception as error:
                raise SampleError(f"sample {index} cannot be read: {_say(error)}") from error
        try:
            return self._collate(samples)
        except Exception as error:
            culprit = self._culprit(indices, samples)
            which = f"samples {list(indices)}" if culprit is None else f"sample {culprit}"
            raise SampleError(f"{which} cannot be collated: {_say(error)}") from error

    def _culprit(self, indices: Sequence[int], samples: list[Any]) -> int | None:
        """Return the index of the first sample that cannot be collated even alone, if there is one."""
        for index, sample in zip(indices, samples, strict=True):
            try:
                self._collate([sample])
            except Exception:
                return index
        return None


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
