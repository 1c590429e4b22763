from __future__ import annotations

import threading

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.ops import (
    attention,
    attention_decode,
    attention_varlen,
    get_matmul_precision,
    set_matmul_precision,
)
from tests.ops.attention_cases import check, make_case, run


@pytest.fixture(autouse=True)
def _highest_afterwards():
    yield
    set_matmul_precision("highest")


def elsewhere(function):
    """What a function returns in another thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_highest_is_the_default_and_a_call_sets_every_thread():
    assert get_matmul_precision() == "highest"
    set_matmul_precision("medium")
    assert get_matmul_precision() == elsewhere(get_matmul_precision) == "medium"
    elsewhere(lambda: set_matmul_precision("highest"))
    assert get_matmul_precision() == "highest"


@pytest.mark.parametrize("outside", ["highest", "medium"])
def test_a_block_holds_for_this_thread_and_restores(outside):
    set_matmul_precision(outside)
    other = "medium" if outside == "highest" else "highest"
    with set_matmul_precision(other):
        assert get_matmul_precision() == other
        assert elsewhere(get_matmul_precision) == outside
        with set_matmul_precision(outside):
            assert get_matmul_precision() == outside
        assert get_matmul_precision() == other
    assert get_matmul_precision() == elsewhere(get_matmul_precision) == outside


def test_a_block_is_left_after_an_exception():
    with pytest.raises(ZeroDivisionError), set_matmul_precision("medium"):
        raise ZeroDivisionError
    assert get_matmul_precision() == "highest"


def test_a_call_inside_a_block_sets_the_others_and_this_thread_after_the_block():
    with set_matmul_precision("highest"):
        set_matmul_precision("medium")
        assert get_matmul_precision() == "highest"
        assert elsewhere(get_matmul_precision) == "medium"
    assert get_matmul_precision() == "medium"


def test_one_object_can_be_entered_again_and_in_itself():
    medium = set_matmul_precision("medium")
    for _ in range(2):
        with medium, medium:
            assert get_matmul_precision() == "medium"
        assert get_matmul_precision() == elsewhere(get_matmul_precision) == "highest"


def test_blocks_that_begin_at_the_same_time_in_two_threads_leave_nothing():
    # Both objects exist before either block begins, whichever begins first.
    for order in ((0, 1), (1, 0)):
        blocks = [set_matmul_precision("medium"), set_matmul_precision("medium")]
        for i in order:
            elsewhere(blocks[i].__enter__)
        assert get_matmul_precision() == "highest"


def test_many_calls_keep_no_memory():
    from paddle_infra._core.matmul_precision import _process_wide

    for _ in range(100):
        set_matmul_precision("medium")
        set_matmul_precision("highest")
    assert len(_process_wide._calls) <= 2


@pytest.mark.parametrize("wrong", ["high", None, 1])
def test_unknown_precision(wrong):
    with pytest.raises(InvalidInputError, match="precision: expected one of 'highest', 'medium', got"):
        set_matmul_precision(wrong)
    assert get_matmul_precision() == "highest"


def test_medium_is_another_result_that_is_near_enough_everywhere():
    case = make_case(2, 40, 50, 4, 2, 32, causal=True)
    check(case)
    exact = run(case, "fused")
    with set_matmul_precision("medium"):
        rough, plain = run(case, "fused"), run(case, "reference")
    for name, value in exact.items():
        assert value.dtype == rough[name].dtype == np.float32
        difference = np.abs(value - rough[name]).max()
        assert 1e-4 < difference / np.abs(value).max() < 0.02, name
    for name, value in run(case, "reference").items():  # which always multiplies exactly
        np.testing.assert_array_equal(value, plain[name])


def test_medium_concerns_packed_attention_and_not_decode():
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 20, 2, 16)).astype("float32"))
    starts = paddle.to_tensor([0, 20])
    calls = {
        "attention": lambda: attention(x, x, x),
        "varlen": lambda: attention_varlen(x[0], x[0], x[0], starts, starts),
        "decode": lambda: attention_decode(x, x, x),
    }
    exact = {name: call().numpy() for name, call in calls.items()}
    with set_matmul_precision("medium"):
        rough = {name: call().numpy() for name, call in calls.items()}
    assert {name for name in calls if (exact[name] != rough[name]).any()} == {"attention", "varlen"}


def test_backward_multiplies_like_its_forward():
    case = make_case(1, 9, 9, 2, 2, 16)

    def gradient(forward, backward):
        query = paddle.to_tensor(case.query, stop_gradient=False)
        with set_matmul_precision(forward):
            out = attention(query, query, query)
        with set_matmul_precision(backward):
            out.backward(paddle.to_tensor(case.grad_out))
        return query.grad.numpy()

    np.testing.assert_array_equal(gradient("medium", "highest"), gradient("medium", "medium"))
    assert (gradient("medium", "highest") != gradient("highest", "highest")).any()


def test_a_program_keeps_the_precision_it_was_captured_with():
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 20, 2, 16)).astype("float32"))
    exact = attention(x, x, x).numpy()

    def compute(x):
        return attention(x, x, x, impl="fused")

    program = paddle.jit.to_static(compute, full_graph=True)
    with set_matmul_precision("medium"):
        rough = attention(x, x, x).numpy()
        np.testing.assert_array_equal(program(x).numpy(), rough)
    np.testing.assert_array_equal(program(x).numpy(), rough)
    assert (exact != rough).any()
