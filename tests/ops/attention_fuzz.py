"""Random shapes and options of attention."""

from __future__ import annotations

from tests.ops.attention_cases import check
from tests.ops.attention_inputs import random_case


def check_random_cases(seeds: range) -> None:
    """Compare every case with the true result, in both precisions."""
    for seed in seeds:
        try:
            check(random_case(seed), seed=seed)
        except AssertionError as error:
            raise AssertionError(f"random_case({seed}): {error}") from error
