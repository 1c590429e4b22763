"""Every planted bug is found, and the sources as they are have none."""

from __future__ import annotations

import pytest

from tests.cuda.emulator import CSRC
from tests.cuda.mutations import TARGETS, find, plant, with_bug

SAMPLED = 8


@pytest.mark.slow
@pytest.mark.parametrize("kernel", TARGETS)
def test_nothing_is_found_without_a_bug(kernel):
    assert find(TARGETS[kernel], None) == ""


@pytest.mark.parametrize(
    ("kernel", "bug"),
    [
        # A sample in every check; all of them, hundreds: `make check-cuda-bugs`.
        pytest.param(kernel, bug, id=f"{kernel}: {bug.name}", marks=mark)
        for kernel, target in TARGETS.items()
        for number, bug in enumerate(target.bugs)
        for mark in [pytest.mark.exhaustive if number % SAMPLED else pytest.mark.slow]
    ],
)
def test_a_planted_bug_is_found(kernel, bug):
    assert find(TARGETS[kernel], bug)


@pytest.mark.parametrize("kernel", TARGETS)
def test_every_bug_can_still_be_planted(kernel, tmp_path):
    """Also without compiling anything: a changed source must not leave a bug behind that is not planted any more."""
    target = TARGETS[kernel]
    assert len({bug.name for bug in target.bugs}) == len(target.bugs)
    plant(target, None, tmp_path / "csrc")
    for bug in target.bugs:
        text = (CSRC / (bug.file or target.file)).read_text()
        assert with_bug(target, bug, text) != text, bug.name
