from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import SingleDevice
from paddle_infra.train.batches import EpochBatches, batch_size, count_items, length_of, windows


def test_windows_fetch_no_batch_too_early() -> None:
    fetched = []

    def loader() -> Iterator[int]:
        for i in range(7):
            fetched.append(i)
            yield i

    seen = []
    for window in windows(loader(), 3):
        seen.append(window)
        assert fetched == list(range(window[-1] + 1))
    assert seen == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("kind", [np.asarray, paddle.to_tensor], ids=["numpy", "paddle"])
def test_count_items(kind: type) -> None:
    assert count_items({"labels": kind(np.array([[1, -100], [-100, 0]]))}) == 2
    assert count_items({"labels": kind(np.array([-100]))}) == 0


def test_count_items_names_what_it_got() -> None:
    with pytest.raises(
        InvalidInputError, match=r"expected a dict with the key 'labels', got a dict .*\['x'\]; pass"
    ):
        count_items({"x": 1})


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"name": "text", "x": np.zeros((3, 2))}, 3),
        ((paddle.zeros([4]), 1), 4),
        ([np.float32(1)], 0),
        ({}, 0),
    ],
)
def test_batch_size(batch: object, expected: int) -> None:
    assert batch_size(batch) == expected


def test_length_of() -> None:
    assert length_of([1, 2]) == 2
    assert length_of(iter([1, 2])) is None


class Asked:
    """A loader that can start anywhere, and remembers where it was asked to."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def iterate(self, epoch: int, start: int, step: int = 1) -> Iterator[int]:
        self.calls.append((epoch, start, step))
        return iter(range(start, 10, step))


class Process(SingleDevice):
    def __init__(self, rank: int, ranks: int) -> None:
        super().__init__()
        self.rank, self.ranks = rank, ranks


def test_seekable_loader_is_asked_for_the_rest() -> None:
    loader = Asked()
    assert list(EpochBatches(loader, 3, 5, None, SingleDevice())) == [5, 6, 7, 8, 9]
    assert loader.calls == [(3, 5, 1)]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("start", [0, 4])
def test_batches_are_dealt_to_processes(ranks: int, start: int) -> None:
    hands = [list(EpochBatches(Asked(), 0, start, None, Process(rank, ranks))) for rank in range(ranks)]
    assert sorted(batch for hand in hands for batch in hand) == list(range(start, 10))
    assert [hand[0] for hand in hands] == list(range(start, start + ranks))


def test_several_processes_need_a_loader_that_can_deal() -> None:
    with pytest.raises(
        InvalidInputError, match=r"expected one with iterate\(epoch, start, step\) for 2 .* got list"
    ):
        EpochBatches([1, 2], 0, 0, None, Process(0, 2))
