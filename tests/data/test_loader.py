from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from paddle_infra._core.errors import InvalidInputError, SampleError
from paddle_infra.data import LengthBucketSampler, Loader, PaddingCollator


class Numbers:
    """Samples of 1 to 7 positions; counts what is read."""

    def __init__(self, size: int, broken: dict[int, Any] | None = None) -> None:
        self.size, self.broken = size, broken or {}
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read.append(index)
        if isinstance(self.broken.get(index), Exception):
            raise self.broken[index]
        ids = [index + 1] * (index % 7 + 1)
        return self.broken.get(index) or {"input_ids": ids, "token_type_ids": [0] * len(ids), "labels": index}


def loader(dataset: Numbers, size: int = 4, **options: Any) -> Loader:
    lengths = [i % 7 + 1 for i in range(len(dataset))]
    return Loader(dataset, LengthBucketSampler(lengths, size, **options), PaddingCollator(0))


def test_an_epoch_has_every_sample_once() -> None:
    batches = list(loader(Numbers(30)).iterate(2))
    assert sorted(label for batch in batches for label in batch["labels"].tolist()) == list(range(30))
    assert len(batches) == len(loader(Numbers(30))) == 8
    assert all((batch["input_ids"].max(axis=1) == batch["labels"] + 1).all() for batch in batches)


def test_starting_in_the_middle_gives_the_rest_and_reads_nothing_else() -> None:
    full = list(loader(Numbers(30), seed=5).iterate(3))
    for start in range(len(full) + 1):
        dataset = Numbers(30)
        rest = list(loader(dataset, seed=5).iterate(3, start))
        assert len(rest) == len(full) - start
        for one, other in zip(rest, full[start:], strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[key], other[key]) for key in one)
        assert len(dataset.read) == sum(len(batch["labels"]) for batch in full[start:])


def test_plain_iteration_is_epoch_0() -> None:
    one, other = list(loader(Numbers(9))), list(loader(Numbers(9)).iterate(0))
    assert [b["labels"].tolist() for b in one] == [b["labels"].tolist() for b in other]


def test_batches_are_made_only_when_asked_for() -> None:
    dataset = Numbers(30)
    next(loader(dataset).iterate(0))
    assert len(dataset.read) == 4


def test_a_sample_that_cannot_be_read_is_named() -> None:
    dataset = Numbers(30, {17: OSError("disk on fire")})
    with pytest.raises(SampleError, match="sample 17 cannot be read: OSError: disk on fire") as caught:
        list(loader(dataset).iterate(0))
    assert isinstance(caught.value.__cause__, OSError)


def test_a_sample_that_cannot_be_collated_is_named() -> None:
    dataset = Numbers(30, {23: {"input_ids": [1, 2], "token_type_ids": [0], "labels": 0}})
    with pytest.raises(
        SampleError, match="sample 23 cannot be collated: InvalidInputError: expected 2 values"
    ):
        list(loader(dataset).iterate(0))


def test_samples_that_only_together_cannot_be_collated_are_named() -> None:
    dataset = Numbers(4, {2: {"input_ids": [1], "token_type_ids": [0], "labels": [1]}})
    with pytest.raises(
        SampleError, match=r"samples \[\d, \d, \d, \d\] cannot be collated: .*labels of one kind"
    ):
        list(loader(dataset).iterate(0))


def test_an_interrupt_is_not_disguised() -> None:
    class Interrupted(Numbers):
        def __getitem__(self, index: int) -> dict[str, Any]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(loader(Interrupted(4)).iterate(0))


@pytest.mark.parametrize("start", [-1, 9])
def test_a_start_outside_the_epoch(start: int) -> None:
    with pytest.raises(
        InvalidInputError, match=f"expected start from 0 to 8 and step >= 1, got {start} and 1"
    ):
        loader(Numbers(30)).iterate(0, start)  # at the call, before the first batch is asked for


def test_a_sampler_for_another_dataset() -> None:
    sampler = LengthBucketSampler([1] * 5, 2)
    with pytest.raises(InvalidInputError, match="sampler for the dataset's 4 samples, it was made for 5"):
        Loader(Numbers(4), sampler, PaddingCollator(0))
