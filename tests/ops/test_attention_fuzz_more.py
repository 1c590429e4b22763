"""Attention with thousands of random shapes and options, against float64 (the other half: files run in parallel)."""

from __future__ import annotations

import pytest

from tests.ops.attention_fuzz import check_random_cases


@pytest.mark.parametrize("first", range(2500, 5000, 625))
def test_random_shapes_and_options(first):
    check_random_cases(range(first, first + 625))
