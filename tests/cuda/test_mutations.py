"""Every planted bug is found, and the sources as they are have none."""

from __future__ import annotations

import pytest

from tests.cuda.mutations import MUTATIONS, TARGETS, find, plant


@pytest.mark.slow
@pytest.mark.parametrize("kernel", TARGETS)
def test_nothing_is_found_without_a_bug(kernel):
    assert find(TARGETS[kernel], None) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "mutation"),
    [
        pytest.param(kernel, mutation, id=f"{kernel}: {mutation.name}")
        for kernel, mutations in MUTATIONS.items()
        for mutation in mutations
    ],
)
def test_a_planted_bug_is_found(kernel, mutation):
    assert find(TARGETS[kernel], mutation)


@pytest.mark.parametrize("kernel", TARGETS)
def test_every_bug_can_still_be_planted(kernel, tmp_path):
    """Also without compiling anything: a changed source must not leave a bug behind that is not planted any more."""
    assert len({mutation.name for mutation in MUTATIONS[kernel]}) == len(MUTATIONS[kernel])
    for number, mutation in enumerate(MUTATIONS[kernel]):
        plant(TARGETS[kernel], mutation, tmp_path / str(number))
