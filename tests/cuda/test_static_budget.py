"""Registers, occupancy and instructions of every CUDA kernel are those of static_budget.json, and of theory."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.cuda.static_budget import (
    ARCHS,
    BUDGET,
    MissingToolError,
    add_kernels,
    differences,
    figures,
    find_tool,
    measure,
    resident_blocks,
)
from tests.cuda.static_names import readable, split_name


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


def test_names_say_what_is_on_and_what_is_off():
    names = json.loads(BUDGET.read_text())["80"]
    assert not [name for name in names if "true" in name or "false" in name]


def test_names_of_kernels_that_are_made_of_others():
    anonymous = "paddle_infra::(anonymous namespace)::"
    product = f"{anonymous}TileProduct<paddle_infra::Bfloat16, 32, 128, true, false, 3>"
    name = readable(f"void {anonymous}fold_topk<{product}, {anonymous}HalfMatrix>(paddle_infra::Params)")
    inner = "TileProduct<Bfloat16,32,128,left_inside,right_across,3>"
    assert name == f"fold_topk<{inner},HalfMatrix>"
    assert split_name(name) == ("fold_topk", [inner, "HalfMatrix"])
    assert readable("merge_rows(int)") == "merge_rows"


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
    full = {"80": {key: {**kernel, "blocks_per_multiprocessor": 0}}}
    assert differences(full, full) == [f"sm_80 {key}: a multiprocessor has no room for a block"]
    assert differences({"80": {}}, {"80": {key: kernel}}) == [f"sm_80 {key}: is gone"]
    plain = {**kernel, "mma": 0, "ldmatrix": 0, "async_copies": 0}
    assert differences({"80": {"new": plain}}, {"80": {}}) == ["sm_80 new: is not in the budget"]
    assert f"sm_80 new: mma is {kernel['mma']}, by theory 0" in differences({"80": {"new": kernel}}, {})


@pytest.mark.parametrize(
    ("registers", "shared_bytes", "threads", "blocks"),
    [(32, 0, 1024, 2), (168, 40960, 128, 3), (32, 100 << 10, 128, 1), (16, 0, 32, 32), (255, 0, 256, 1)],
)
def test_blocks_of_a_multiprocessor_of_an_a100(registers, shared_bytes, threads, blocks):
    """Worked out by hand from the limits: registers twice, shared memory, blocks, registers."""
    assert resident_blocks(ARCHS["80"], registers, shared_bytes, threads) == blocks


def test_exponentials_of_paths_that_only_sm_100_has():
    key = "attention_bwd_query<Bfloat16,64,plain>"
    kernel = json.loads(BUDGET.read_text())["80"][key]
    assert kernel["exp2"] == 32
    four = {key: {**kernel, "exp2": 128}}
    assert not differences({"100": four}, {"100": four})
    assert differences({"80": four}, {"80": four}) == [f"sm_80 {key}: exp2 is 128, by theory 32"]
    three = {key: {**kernel, "exp2": 96}}
    assert differences({"100": three}, {"100": three}) == [f"sm_100 {key}: exp2 is 96, by theory 32 or 128"]


def test_two_kernels_of_one_name_are_not_taken_for_one():
    known = {"bias_gradients": {"registers": 30}}
    add_kernels(known, {"bias_gradients": {"registers": 30}, "other": {"registers": 8}})
    assert known.keys() == {"bias_gradients", "other"}
    with pytest.raises(ValueError, match="two kernels are called bias_gradients"):
        add_kernels(known, {"bias_gradients": {"registers": 32}})


def test_shared_memory_of_unknown_size_is_refused():
    usage = {"REG": 32, "SHARED": 0, "STACK": 0, "LOCAL": 0}
    with pytest.raises(ValueError, match="new_kernel uses shared memory"):
        figures("new_kernel", "80", usage, Counter({"LDS.128": 1}), 128)
    assert figures("new_kernel", "80", usage, Counter({"LDG.E": 1}), 128)["shared_bytes"] == 0
