"""Registers, occupancy and instructions of every CUDA kernel are those of static_budget.json, and of theory."""

from __future__ import annotations

import json

import pytest

from tests.cuda.static_budget import (
    ARCHS,
    BUDGET,
    MissingToolError,
    differences,
    find_tool,
    measure,
    resident_blocks,
)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["80", "90a"])  # the others: python -m tests.cuda.static_budget
def test_kernels_are_within_their_budget(arch):
    try:
        for tool in ("nvcc", "cuobjdump"):
            find_tool(tool)
    except MissingToolError as error:
        pytest.skip(str(error))
    budget = json.loads(BUDGET.read_text())
    said = differences(measure([arch]), {arch: budget[arch]})
    assert not said, "\n".join([*said, "if that is wanted: python -m tests.cuda.static_budget --write"])


def test_every_architecture_has_a_budget_for_the_same_kernels():
    budget = json.loads(BUDGET.read_text())
    assert budget.keys() == ARCHS.keys()
    assert all(kernels.keys() == budget["80"].keys() for kernels in budget.values())


def test_what_is_wrong_is_said():
    kernel = json.loads(BUDGET.read_text())["80"]["attention_fwd<Bfloat16,64,plain>"]
    key = "attention_fwd<Bfloat16,64,plain>"
    spilled = {"80": {key: {**kernel, "local_accesses": 2}}}
    assert differences(spilled, spilled) == [f"sm_80 {key}: local_accesses is 2, by theory 0"]
    short = {"80": {key: {**kernel, "mma": 127}}}
    assert differences(short, {"80": {key: kernel}}) == [
        f"sm_80 {key}: mma is 127, expected 128",
        f"sm_80 {key}: mma is 127, by theory 128",
    ]
    assert differences({"80": {}}, {"80": {key: kernel}}) == [f"sm_80 {key}: is gone"]
    assert differences({"80": {"new": kernel}}, {"80": {}}) == ["sm_80 new: is not in the budget"]


@pytest.mark.parametrize(
    ("registers", "shared_bytes", "threads", "blocks"),
    [(32, 0, 1024, 2), (168, 40960, 128, 3), (32, 100 << 10, 128, 1), (16, 0, 32, 32), (255, 0, 256, 1)],
)
def test_blocks_of_a_multiprocessor_of_an_a100(registers, shared_bytes, threads, blocks):
    """Worked out by hand from the limits: registers twice, shared memory, blocks, registers."""
    assert resident_blocks(ARCHS["80"], registers, shared_bytes, threads) == blocks
