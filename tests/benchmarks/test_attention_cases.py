from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import _attention_cases as cases
from benchmarks._attention_cases import (
    PASSES,
    Case,
    floating_point_operations,
    make_inputs,
    make_lengths,
    round_to_bfloat16,
    self_attention,
    visible_pairs,
)
from benchmarks._attention_decode import bytes_read, decode_case
from benchmarks._attention_lengths import dense_case


@pytest.mark.parametrize(
    ("case", "pairs"),
    [
        (self_attention(2, 5, 3, 8), 2 * 25),
        (self_attention(2, 5, 3, 8, "causal"), 2 * 15),
        (Case(1, 2, 5, 1, 1, 8, "causal"), 4 + 5),
        (Case(1, 5, 2, 1, 1, 8, "causal"), 1 + 2),  # the first three see nothing
        (self_attention(2, 5, 3, 8, "bool mask"), 2 * 25),
    ],
    ids=str,
)
def test_pairs_that_count(case: Case, pairs: int) -> None:
    assert visible_pairs(case) == pairs


@pytest.mark.parametrize("option", ["key padding", "lengths", "lengths causal"])
def test_pairs_that_count_with_lengths(option: str) -> None:
    case = self_attention(4, 33, 1, 8, option)
    lengths = make_lengths(case)
    assert lengths.max() == 33
    queries, keys = np.arange(33)[:, None], np.arange(33)
    expected = 0
    for length in lengths:
        seen = np.broadcast_to(keys < length, (33, 33))
        if case.has_lengths:
            seen = seen & (queries < length)
        expected += int((seen & ((keys <= queries) | (not case.causal))).sum())
    assert visible_pairs(case) == expected


def test_operations_of_a_known_case() -> None:
    case = self_attention(2, 128, 12, 64)
    assert floating_point_operations(case, PASSES[0]) == 4 * 2 * 128 * 128 * 12 * 64
    assert floating_point_operations(case, PASSES[1]) == 3.5 * 4 * 2 * 128 * 128 * 12 * 64


def test_the_dense_batch_has_about_the_same_work() -> None:
    for option in ("lengths", "lengths causal"):
        case = self_attention(32, 512, 12, 64, option)
        assert abs(visible_pairs(dense_case(case)) / visible_pairs(case) - 1) < 0.1


def test_inputs_repeat_and_bfloat16_holds_them() -> None:
    case = self_attention(2, 9, 2, 8, "float bias")
    first, second = make_inputs(case), make_inputs(case)
    assert first.keys() == {"query", "key", "value", "grad", "bias"}
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
        np.testing.assert_array_equal(array, round_to_bfloat16(array))


def test_rounding_goes_to_even() -> None:
    halfway = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8], "float32")
    np.testing.assert_array_equal(
        round_to_bfloat16(halfway), np.array([1, 1 + 2**-6, 1 + 2**-7, -1], "float32")
    )


def test_no_case_twice() -> None:
    lists = (cases.FULL, cases.QUICK, cases.MEMORY_FULL, cases.ACCURACY_FULL)
    for found in lists:
        assert len(set(found)) == len({str(case) for case in found}) == len(found)
    assert all(case.option in cases.OPTIONS for found in lists for case in found)


def test_bytes_of_a_cache() -> None:
    case = decode_case(2, 10, 12, 4, 64)
    assert bytes_read(case, "fused") == 2 * 2 * 10 * 4 * 64 * 4
    assert bytes_read(case, "fused-bf16") == bytes_read(case, "torch") / 2
    assert str(replace(case, batch=1)) == "(1,1/10,12/4,64)"
