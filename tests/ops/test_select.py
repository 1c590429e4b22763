from __future__ import annotations

import threading

import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.ops import _select, explain_dispatch, implementation

YES = _select.Implementation("fused", lambda a: [], lambda a: ("fused", a))
NO = _select.Implementation(
    "fused", lambda a: ["too small", "too blue"], lambda a: pytest.fail("must not run")
)
PLAIN = _select.Implementation("reference", lambda a: [], lambda a: ("reference", a))
PLAIN_NO = _select.Implementation("reference", lambda a: ["too plain"], lambda a: pytest.fail("must not run"))


def test_the_first_without_reasons_runs():
    assert _select.run("op", (YES, PLAIN), 1, "auto") == ("fused", 1)
    assert _select.run("op", (NO, PLAIN), 1, "auto") == ("reference", 1)
    assert _select.run("op", (YES, PLAIN), 1, "reference") == ("reference", 1)


def test_if_all_refuse_every_reason_is_listed():
    with pytest.raises(UnsupportedError, match=r"(?s)too small.*too blue.*too plain"):
        _select.run("op", (NO, PLAIN_NO), 1, "auto")


def test_an_explicit_choice_that_cannot_run_raises():
    with pytest.raises(
        UnsupportedError, match=r"no implementation can run\.\nop: no implementation runs\n  fused cannot"
    ):
        _select.run("op", (NO, PLAIN), 1, "fused")


def test_the_context_decides_what_auto_means_and_the_argument_wins():
    with implementation("reference"):
        assert _select.run("op", (YES, PLAIN), 1, "auto")[0] == "reference"
        assert _select.run("op", (YES, PLAIN), 1, "fused")[0] == "fused"
        with implementation("auto"):
            assert _select.run("op", (YES, PLAIN), 1, "auto")[0] == "fused"
        assert _select.run("op", (YES, PLAIN), 1, "auto")[0] == "reference"
    assert _select.run("op", (YES, PLAIN), 1, "auto")[0] == "fused"
    with implementation("fused"), pytest.raises(UnsupportedError, match="too small"):
        _select.run("op", (NO, PLAIN), 1, "auto")


def test_the_context_is_left_after_an_exception_and_holds_for_its_thread_only():
    seen = []
    other = threading.Thread(target=lambda: seen.append(_select.run("op", (YES, PLAIN), 1, "auto")[0]))

    def fail_inside() -> None:
        with implementation("reference"):
            other.start()
            other.join()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert seen == ["fused"]
    assert _select.run("op", (YES, PLAIN), 1, "auto")[0] == "fused"


def test_unknown_names():
    with pytest.raises(
        InvalidInputError, match=r"implementation: expected one of 'auto', 'fused', .* got 'gpu'"
    ):
        implementation("gpu").__enter__()
    with pytest.raises(
        InvalidInputError, match=r"operator: expected one of add_norm, .*linear_topk_log_prob, got 'softmax'"
    ):
        explain_dispatch("softmax")


def test_explain_dispatch_takes_the_arguments_of_the_operator():
    x = paddle.ones([1, 2, 1, 4])
    starts = paddle.to_tensor([0, 2])
    calls = {
        "add_norm": (x, x),
        "add_norm_with_sum": (x, x),
        "attention": (x, x, x),
        "attention_with_lse": (x, x, x),
        "attention_decode": (x, x, x),
        "attention_varlen": (x[0], x[0], x[0], starts, starts),
        "embedding_norm": (paddle.to_tensor([[0, 3]]), paddle.ones([4, 3])),
        "linear": (paddle.ones([2, 3]), paddle.ones([3, 4])),
        "linear_cross_entropy": (paddle.ones([2, 3]), paddle.ones([4, 3]), paddle.to_tensor([0, 3])),
        "linear_binary_cross_entropy": (paddle.ones([2, 3]), paddle.ones([4, 3]), paddle.ones([2, 4])),
        "linear_focal": (paddle.ones([2, 3]), paddle.ones([4, 3]), paddle.to_tensor([0, 3])),
        "linear_int8": (paddle.ones([2, 3]), paddle.ones([3, 4]).astype("int8"), paddle.ones([4])),
        "linear_topk": (paddle.ones([2, 3]), paddle.ones([4, 3]), 2),
        "linear_topk_log_prob": (paddle.ones([2, 3]), paddle.ones([4, 3]), 2),
    }
    assert calls.keys() == _select.OPERATORS.keys()
    for operator, inputs in calls.items():
        assert str(explain_dispatch(operator, *inputs)) == f"{operator}: fused runs"
        assert explain_dispatch(operator, *inputs, impl="reference").chosen == "reference"
    with pytest.raises(TypeError, match="missing a required argument: 'value'"):
        explain_dispatch("attention", x, x)
    with pytest.raises(TypeError, match="unexpected keyword argument 'dropout_p'"):
        explain_dispatch("attention_decode", x, x, x, dropout_p=0.1)


def test_explain_dispatch_checks_decides_and_runs_nothing():
    hidden, weight, label = paddle.randn([2, 3]), paddle.randn([4, 3]), paddle.to_tensor([0, 3])
    fused = explain_dispatch("linear_cross_entropy", hidden, weight, label, z_loss=0.1)
    assert (fused.chosen, dict(fused.refusals)) == ("fused", {})
    assert str(fused) == "linear_cross_entropy: fused runs"
    with implementation("reference"):
        assert explain_dispatch("linear_cross_entropy", hidden, weight, label).chosen == "reference"
    plain = explain_dispatch(
        "linear_cross_entropy", hidden.astype("float64"), weight.astype("float64"), label, impl="auto"
    )
    assert "fused cannot: the compiled kernel computes in float32" in str(plain)
    with pytest.raises(InvalidInputError, match=r"label\[1\] is 3"):
        explain_dispatch("linear_cross_entropy", hidden, weight[:3], label)
