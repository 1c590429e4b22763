"""Operators under automatic mixed precision. A CPU has none: the context is put on by hand, around one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import paddle
import pytest
from paddle.base import core, framework

from paddle_infra import ops
from paddle_infra.ops._autocast import narrow, widen

paddle.seed(0)


def rand(*shape: int) -> paddle.Tensor:
    tensor = paddle.randn(list(shape))
    tensor.stop_gradient = False
    return tensor


def heads() -> tuple[paddle.Tensor, ...]:
    return tuple(rand(2, 5, 2, 8) for _ in range(3))


@pytest.fixture(params=["bfloat16", "float16"])
def amp(request: pytest.FixtureRequest) -> Iterator[str]:
    tracer = framework._dygraph_tracer()
    before = tracer._amp_level, tracer._amp_dtype
    tracer._amp_level, tracer._amp_dtype = core.AmpLevel.O1, request.param
    yield request.param
    tracer._amp_level, tracer._amp_dtype = before


def test_attention_is_computed_in_the_format_and_gradients_come_back_in_float32(amp: str) -> None:
    query, key, value = heads()
    out = ops.attention(query, key, value)
    assert out.dtype == getattr(paddle, amp)
    out.sum().backward()
    assert query.grad.dtype == key.grad.dtype == value.grad.dtype == paddle.float32
    tracer = framework._dygraph_tracer()
    tracer._amp_level = core.AmpLevel.O0
    by_hand = ops.attention(*(t.detach().cast(amp) for t in (query, key, value)))
    assert (out.astype("float32") == by_hand.astype("float32")).all()


#: Calls with float32 tensors, and the arguments that become narrow, as the implementations see them.
CALLS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "attention": (lambda: ops.attention(*heads(), impl="reference"), ("query", "key", "value")),
    "attention_with_lse": (
        lambda: ops.attention_with_lse(*heads(), impl="reference"),
        ("query", "key", "value"),
    ),
    "attention_varlen": (
        lambda: ops.attention_varlen(*(t[0] for t in heads()), STARTS, STARTS, impl="reference"),
        ("query", "key", "value"),
    ),
    "attention_decode": (
        lambda: ops.attention_decode(*(t.detach() for t in heads()), impl="reference"),
        ("query", "key", "value"),
    ),
    "linear": (
        lambda: ops.linear(rand(3, 8), rand(8, 4), rand(4), impl="reference"),
        ("x", "weight", "bias"),
    ),
    "linear_cross_entropy": (
        lambda: ops.linear_cross_entropy(rand(3, 8), rand(20, 8), LABELS, impl="reference"),
        ("hidden", "weight"),
    ),
    "linear_focal": (
        lambda: ops.linear_focal(rand(3, 8), rand(20, 8), LABELS, impl="reference"),
        ("hidden", "weight"),
    ),
    "linear_binary_cross_entropy": (
        lambda: ops.linear_binary_cross_entropy(
            rand(3, 8), rand(20, 8), paddle.zeros([3, 20]), impl="reference"
        ),
        ("hidden", "weight"),
    ),
    "linear_topk": (
        lambda: ops.linear_topk(rand(3, 8).detach(), rand(20, 8).detach(), 2, impl="reference"),
        ("hidden", "weight"),
    ),
}
LABELS = paddle.to_tensor([0, 2, 1])
STARTS = paddle.to_tensor([0, 2, 5], dtype="int32")


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the chosen implementation is given; it is not run."""
    seen: list[Any] = []

    def run(operator: str, implementations: Any, given: Any, impl: str) -> Any:
        seen.append(given)
        return paddle.zeros([1]), paddle.zeros([1])

    monkeypatch.setattr(ops._select, "run", run)
    return seen


@pytest.mark.parametrize("name", CALLS)
def test_products_take_the_narrow_format(name: str, amp: str, arguments: list[Any]) -> None:
    call, narrow = CALLS[name]
    call()
    assert {getattr(arguments[0], field).dtype for field in narrow} == {getattr(paddle, amp)}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_cast_outside(name: str, arguments: list[Any]) -> None:
    call, narrow = CALLS[name]
    call()
    assert {getattr(arguments[0], field).dtype for field in narrow} == {paddle.float32}


@pytest.mark.parametrize("norm", [ops.add_norm, ops.add_norm_with_sum])
def test_norms_take_float32(norm: Any, amp: str, arguments: list[Any]) -> None:
    narrow = rand(2, 8).detach().cast(amp)
    norm(narrow, narrow, rand(8), impl="reference")
    assert {arguments[0].hidden.dtype, arguments[0].residual.dtype} == {paddle.float32}


def test_float64_and_integers_stay_as_they_are(amp: str) -> None:
    double, whole = paddle.zeros([2], dtype="float64"), paddle.zeros([2], dtype="int64")
    assert [t.dtype for t in narrow(double, whole)] == [paddle.float64, paddle.int64]
    assert [t.dtype for t in widen(double, whole)] == [paddle.float64, paddle.int64]
    assert narrow(None, "text") == (None, "text")
