from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.data import PaddingCollator


def test_one_label_per_sample_by_hand() -> None:
    batch = PaddingCollator(9)(
        [
            {"input_ids": [1, 2, 3], "token_type_ids": [0, 1, 1], "labels": 4},
            {"input_ids": [5], "token_type_ids": [1], "labels": 0},
        ]
    )
    assert {key: value.tolist() for key, value in batch.items()} == {
        "input_ids": [[1, 2, 3], [5, 9, 9]],
        "token_type_ids": [[0, 1, 1], [1, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [4, 0],
    }
    assert {value.dtype for value in batch.values()} == {np.dtype(np.int64)}


def test_one_label_per_position_and_rounding_up() -> None:
    batch = PaddingCollator(0, pad_to_multiple=4)(
        [
            {"input_ids": [1, 2, 3, 4, 5], "token_type_ids": [0] * 5, "labels": [-100, 1, 2, 3, -100]},
            {"input_ids": [6], "token_type_ids": [0], "labels": [7]},
        ]
    )
    assert batch["input_ids"].shape == (2, 8)
    assert batch["labels"].tolist() == [[-100, 1, 2, 3, -100, -100, -100, -100], [7] + [-100] * 7]


def test_unlabelled_samples() -> None:
    assert "labels" not in PaddingCollator(0)([{"input_ids": [1], "token_type_ids": [0]}])


@pytest.mark.parametrize("multiple", [1, 8])
def test_what_was_collated_comes_back(multiple: int) -> None:
    rng = np.random.default_rng(0)
    for trial in range(100):
        samples: list[dict[str, Any]] = []
        for _ in range(rng.integers(1, 9)):
            n = int(rng.integers(1, 40))
            labels = rng.integers(-100, 9, n).tolist() if trial % 2 else int(rng.integers(9))
            samples.append(
                {
                    "input_ids": rng.integers(0, 30_000, n).tolist(),
                    "token_type_ids": rng.integers(0, 2, n).tolist(),
                    "labels": labels,
                }
            )
        batch = PaddingCollator(0, pad_to_multiple=multiple)(samples)
        longest = max(len(s["input_ids"]) for s in samples)
        assert batch["input_ids"].shape[1] % multiple == 0
        assert longest <= batch["input_ids"].shape[1] < longest + multiple
        for row, sample in enumerate(samples):
            n = int(batch["attention_mask"][row].sum())
            assert batch["attention_mask"][row, :n].all()
            keys = ["input_ids", "token_type_ids"] + (["labels"] if trial % 2 else [])
            assert all(batch[key][row, :n].tolist() == sample[key] for key in keys)
            assert trial % 2 or batch["labels"][row] == sample["labels"]
            assert not batch["input_ids"][row, n:].any()


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([], "expected at least one sample, got none"),
        ([{"input_ids": [], "token_type_ids": []}], r"a list input_ids that is not empty, got \[\]"),
        ([{"token_type_ids": [0]}], "a list input_ids that is not empty, got None"),
        (
            [{"input_ids": [1, 2], "token_type_ids": [0]}],
            "expected 2 values in 'token_type_ids', .*, got 1 values",
        ),
        ([{"input_ids": [1]}], "expected 1 values in 'token_type_ids', as many as input_ids, got None"),
        ([{"input_ids": [1], "token_type_ids": [0], "labels": [1, 2]}], "expected 1 values in 'labels'"),
        (
            [
                {"input_ids": [1], "token_type_ids": [0], "labels": 1},
                {"input_ids": [1], "token_type_ids": [0]},
            ],
            r"labels of one kind in all samples of a batch \(.*\), got \['NoneType', 'int'\]",
        ),
        ([{"input_ids": [1], "token_type_ids": [0], "labels": 0.7}], r"got \['float'\]"),
    ],
)
def test_samples_that_do_not_fit(samples: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        PaddingCollator(0)(samples)


@pytest.mark.parametrize(("pad_id", "multiple"), [(-1, 1), (0, 0)])
def test_arguments_out_of_range(pad_id: int, multiple: int) -> None:
    with pytest.raises(InvalidInputError, match=f"pad_to_multiple >= 1, got {pad_id} and {multiple}"):
        PaddingCollator(pad_id, pad_to_multiple=multiple)
