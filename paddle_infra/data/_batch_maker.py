"""How a list of sample indices becomes a batch: the same bits in whatever process it is done."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from paddle_infra._core.errors import InvalidInputError, SampleError


class Dataset(Protocol):
    """Anything with a length that returns a sample for an index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@contextmanager
def seeded_generators(seed: int, epoch: int, batch: int) -> Iterator[None]:
    """Seed the global generators of Python and NumPy for one batch, and put them back afterwards.

    The two get independent seeds from ``numpy.random.SeedSequence([seed, epoch, batch])``.
    """
    python, numpy_ = random.getstate(), np.random.get_state()
    words = np.random.SeedSequence([seed, epoch, batch]).generate_state(8)
    random.seed(int.from_bytes(words[:4].tobytes(), "little"))
    np.random.seed(words[4:])
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_)


class BatchMaker:
    """Reads and collates; can be pickled if the dataset and the collate function can.

    Args:
        dataset: the samples.
        collate: makes a batch of a list of samples.
        seed: of the random numbers that the two draw.
        with_ids: whether to put the indices of the samples into the batch.
    """

    def __init__(
        self, dataset: Dataset, collate: Callable[[list[Any]], Any], seed: int, with_ids: bool
    ) -> None:
        self._dataset, self._collate, self._seed, self._with_ids = dataset, collate, seed, with_ids

    def make(
        self,
        epoch: int,
        batch: int,
        indices: Sequence[int],
        on_sample: Callable[[int], None] = lambda index: None,
    ) -> Any:
        """Return batch number ``batch`` of an epoch.

        Args:
            epoch: the epoch, from 0.
            batch: number of the batch in the epoch, from 0.
            indices: its samples.
            on_sample: called with the index of each sample before it is read, and with -1 before collating.

        Raises:
            SampleError: reading or collating failed; names the samples, the cause is chained.
        """
        with seeded_generators(self._seed, epoch, batch):
            samples = []
            for index in indices:
                on_sample(index)
                try:
                    samples.append(self._dataset[index])
                except Exception as error:
                    raise SampleError(f"sample {index} cannot be read: {_say(error)}") from error
            on_sample(-1)
            try:
                made = self._collate(samples)
            except Exception as error:
                culprit = self._culprit(indices, samples)
                which = f"samples {list(indices)}" if culprit is None else f"sample {culprit}"
                raise SampleError(f"{which} cannot be collated: {_say(error)}") from error
        return _add_ids(made, indices) if self._with_ids else made

    def _culprit(self, indices: Sequence[int], samples: list[Any]) -> int | None:
        """Return the index of the first sample that cannot be collated even alone, if there is one."""
        for index, sample in zip(indices, samples, strict=True):
            try:
                self._collate([sample])
            except Exception:
                return index
        return None


def _add_ids(batch: Any, indices: Sequence[int]) -> dict[str, Any]:
    if not isinstance(batch, dict):
        raise InvalidInputError(
            f"with_ids: expected a collate function that returns a dict, got {type(batch).__name__}"
        )
    if "ids" in batch:
        raise InvalidInputError("with_ids: expected batches without the key 'ids', got one that has it")
    return {**batch, "ids": np.asarray(indices, dtype=np.int64)}


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
