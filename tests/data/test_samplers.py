from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.data import LengthBucketSampler


def random_lengths(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 100, count)


def test_every_index_is_in_exactly_one_batch() -> None:
    rng = np.random.default_rng(1)
    for trial in range(200):
        count, size = int(rng.integers(1, 300)), int(rng.integers(1, 40))
        shuffle, drop = bool(trial % 2), bool(trial % 4 > 1)
        if drop and count < size:
            continue
        sampler = LengthBucketSampler(
            random_lengths(count, trial),
            size,
            shuffle=shuffle,
            seed=trial,
            drop_last=drop,
            pool_batches=trial % 5 + 1,
        )
        for epoch in (0, 3):
            batches = sampler.batches(epoch)
            indices = [i for batch in batches for i in batch]
            assert len(batches) == len(sampler)
            assert len(set(indices)) == len(indices)
            sizes = sorted((len(batch) for batch in batches), reverse=True)
            if drop:
                assert sizes == [size] * (count // size)
            else:
                assert sorted(indices) == list(range(count))
                assert sizes == [size] * (count // size) + [count % size] * (count % size > 0)
            assert all(type(i) is int for i in indices)


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    lengths = random_lengths(500)
    sampler = LengthBucketSampler(lengths, 16, seed=7)
    later = sampler.batches(5)
    assert sampler.batches(0) != later
    assert LengthBucketSampler(list(lengths), 16, seed=7).batches(5) == later
    assert LengthBucketSampler(lengths, 16, seed=8).batches(5) != later
    fixed = LengthBucketSampler(lengths, 16, shuffle=False)
    assert fixed.batches(0) == fixed.batches(9)


def test_another_process_gets_the_same_batches(start_python: Callable[..., subprocess.Popen[str]]) -> None:
    process = start_python("""
        from paddle_infra.data import LengthBucketSampler
        print(LengthBucketSampler([3, 1, 2, 5, 4] * 20, 8, seed=11).batches(2))
    """)
    here = LengthBucketSampler([3, 1, 2, 5, 4] * 20, 8, seed=11).batches(2)
    assert process.communicate()[0].strip() == str(here)


def test_batches_are_of_similar_length_and_in_random_order() -> None:
    lengths = random_lengths(5000)
    sampler = LengthBucketSampler(lengths, 32)
    random_order = np.random.default_rng(0).permutation(5000)
    chunks = [lengths[random_order[i : i + 32]] for i in range(0, 5000, 32)]
    unsorted = 1 - sum(c.sum() for c in chunks) / sum(c.max() * len(c) for c in chunks)
    assert unsorted > 0.4
    assert sampler.padding_fraction(0) < 0.05
    assert LengthBucketSampler(lengths, 32, shuffle=False).padding_fraction() < sampler.padding_fraction(0)
    means = [lengths[batch].mean() for batch in sampler.batches(0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_padding_fraction_by_hand() -> None:
    sampler = LengthBucketSampler([5, 1, 4, 2], 2, shuffle=False)
    assert sampler.batches(0) == [[1, 3], [2, 0]]
    assert sampler.padding_fraction() == pytest.approx(1 - 12 / 14)


def test_without_shuffle_equal_lengths_keep_their_order() -> None:
    assert LengthBucketSampler([2, 1, 2, 1, 2], 3, shuffle=False).batches(0) == [[1, 3, 0], [2, 4]]


@pytest.mark.parametrize(
    ("lengths", "options", "reason"),
    [
        ([], {}, r"lengths of shape \[N\] with N >= 1, got \(0,\)"),
        ([[1, 2]], {}, r"got \(1, 2\)"),
        ([1, 0], {}, "expected lengths >= 1, got 0"),
        ([1], {"batch_size": 0}, "expected batch_size >= 1, got 0"),
        ([1], {"seed": -1}, "expected seed >= 0, got -1"),
        ([1], {"pool_batches": 0}, "expected pool_batches >= 1, got 0"),
        ([1], {"drop_last": True}, "at least batch_size=2 samples with drop_last, got 1"),
    ],
)
def test_arguments_out_of_range(lengths: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        LengthBucketSampler(lengths, **{"batch_size": 2, **options})


def test_a_negative_epoch() -> None:
    with pytest.raises(InvalidInputError, match="expected epoch >= 0, got -1"):
        LengthBucketSampler([1], 1).batches(-1)
