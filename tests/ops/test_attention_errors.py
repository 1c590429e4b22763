"""What the attention operators refuse, and with which words; and how they choose their implementation."""

from __future__ import annotations

import math
import re
from types import MappingProxyType

import numpy as np
import paddle
import pytest

from paddle_infra._core import extension
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra._core.extension import ExtensionStatus
from paddle_infra.ops import (
    _attention_arguments,
    _attention_operator,
    attention,
    attention_decode,
    attention_varlen,
    attention_with_lse,
    explain_dispatch,
    implementation,
)

BATCH, QUERIES, KEYS, HEADS, KV_HEADS, DIM = 2, 5, 7, 4, 2, 8


def ones(*shape, dtype="float32"):
    return paddle.ones(shape, dtype)


def ints(*values, dtype="int64"):
    return paddle.to_tensor(np.array(values, dtype))


QUERY = {"query": ones(BATCH, QUERIES, HEADS, DIM)}
INPUTS = {**QUERY, "key": ones(BATCH, KEYS, KV_HEADS, DIM), "value": ones(BATCH, KEYS, KV_HEADS, DIM)}
PACKED = {
    "query": ones(10, HEADS, DIM),
    "key": ones(12, KV_HEADS, DIM),
    "value": ones(12, KV_HEADS, DIM),
    "cu_seqlens_q": ints(0, 4, 10),
    "cu_seqlens_k": ints(0, 3, 12),
}
MEANING = "[batch_size, seq_len, num_heads, head_dim]"
BROADCAST = (
    "bias: expected a shape that broadcasts to [2, 4, 5, 7] ([batch_size, num_heads, seq_q, seq_k]), got "
)

TENSORS = [
    ({"query": np.ones((2, 5, 4, 8))}, TypeError, "query: expected a paddle.Tensor, got ndarray"),
    ({"key": None}, TypeError, "key: expected a paddle.Tensor, got NoneType"),
    (
        {"query": ones(2, 5, 4, 8, dtype="int64")},
        TypeError,
        "query: expected dtype float32 or float64 or float16 or bfloat16, got int64",
    ),
    ({"query": ones(2, 5, 4, 8, dtype="float16")}, TypeError, "key: expected dtype float16, got float32"),
    ({"value": ones(2, 7, 2, 8, dtype="float64")}, TypeError, "value: expected dtype float32, got float64"),
    (
        {"query": ones(5, 4, 8)},
        ValueError,
        f"query: expected shape {MEANING} with heads and head_dim at least 1, got [5, 4, 8]",
    ),
    ({"query": ones(2, 5, 4, 0)}, ValueError, "with heads and head_dim at least 1, got [2, 5, 4, 0]"),
    ({"query": ones(2, 5, 0, 8)}, ValueError, "with heads and head_dim at least 1, got [2, 5, 0, 8]"),
    (
        {"key": ones(2, 7, 2, 9)},
        ValueError,
        f"key: expected shape [2, -1, -1, 8] ({MEANING}, some as of query, -1: any size), got [2, 7, 2, 9]",
    ),
    ({"key": ones(3, 7, 2, 8)}, ValueError, "key: expected shape [2, -1, -1, 8]"),
    ({"key": ones(7, 2, 8)}, ValueError, "key: expected shape [2, -1, -1, 8]"),
    (
        {"key": ones(2, 7, 3, 8)},
        ValueError,
        "key: expected a number of heads that divides the 4 of query, got 3",
    ),
    (
        {"key": ones(2, 7, 0, 8)},
        ValueError,
        "key: expected a number of heads that divides the 4 of query, got 0",
    ),
    (
        {"value": ones(2, 6, 2, 8)},
        ValueError,
        "value: expected shape [2, 7, 2, 8] (shape of key), got [2, 6, 2, 8]",
    ),
]
BIAS = [
    ({"bias": np.ones(7)}, TypeError, "bias: expected a paddle.Tensor, got ndarray"),
    (
        {"bias": ints(1)},
        TypeError,
        "bias: expected dtype float32 or float64 or float16 or bfloat16 or bool, got int64",
    ),
    ({"bias": ones(2, 1, 5, 6)}, ValueError, f"{BROADCAST}[2, 1, 5, 6]"),
    ({"bias": ones(6)}, ValueError, f"{BROADCAST}[6]"),
    ({"bias": ones(2, 7)}, ValueError, f"{BROADCAST}[2, 7]"),
    ({"bias": ones(1, 1, 1, 5, 7)}, ValueError, f"{BROADCAST}[1, 1, 1, 5, 7]"),
    ({"bias": ones(2, 1, 5, 6, dtype="bool")}, ValueError, f"{BROADCAST}[2, 1, 5, 6]"),
]
SLOPES = [
    ({"alibi_slopes": [0.5]}, TypeError, "alibi_slopes: expected a paddle.Tensor, got list"),
    (
        {"alibi_slopes": ones(4, dtype="float64")},
        TypeError,
        "alibi_slopes: expected dtype float32, got float64",
    ),
    (
        {"alibi_slopes": ones(3)},
        ValueError,
        "alibi_slopes: expected shape [4] ([num_heads] or [batch_size, num_heads]), got [3]",
    ),
    ({"alibi_slopes": ones(3, 4)}, ValueError, "alibi_slopes: expected shape [2, 4] ([num_heads] or"),
    ({"alibi_slopes": ones(1, 1, 4)}, ValueError, "alibi_slopes: expected shape [2, 4] ([num_heads] or"),
]
KV_LENGTHS = [
    ({"kv_lengths": [7, 7]}, TypeError, "kv_lengths: expected a paddle.Tensor, got list"),
    ({"kv_lengths": ones(2)}, TypeError, "kv_lengths: expected dtype int32 or int64, got float32"),
    ({"kv_lengths": ints(7)}, ValueError, "kv_lengths: expected shape [2] ([batch_size]), got [1]"),
    ({"kv_lengths": ints(7, 8)}, ValueError, "kv_lengths[1]: expected a length in [0, 7], got 8"),
    (
        {"kv_lengths": ints(7, 8, dtype="int32")},
        ValueError,
        "kv_lengths[1]: expected a length in [0, 7], got 8",
    ),
    (
        {"kv_lengths": ints(2**32, 1)},
        ValueError,
        "kv_lengths[0]: expected a length in [0, 7], got 4294967296",
    ),
]
Q_LENGTHS = [
    ({"q_lengths": ints(-1, 5)}, ValueError, "q_lengths[0]: expected a length in [0, 5], got -1"),
    ({"q_lengths": ints(6, 5)}, ValueError, "q_lengths[0]: expected a length in [0, 5], got 6"),
    (
        {"q_lengths": ints(1, 1).reshape([2, 1])},
        ValueError,
        "q_lengths: expected shape [2] ([batch_size]), got [2, 1]",
    ),
]
NUMBERS = [
    ({"window": 3}, ValueError, "window: expected None or two sizes (left, right), got 3"),
    ({"window": (3,)}, ValueError, "window: expected None or two sizes (left, right), got (3,)"),
    (
        {"window": (-1, 2)},
        ValueError,
        "window, left: expected None for no limit, or a size of 0 or more, got -1",
    ),
    (
        {"window": (1, -2)},
        ValueError,
        "window, right: expected None for no limit, or a size of 0 or more, got -2",
    ),
    ({"window": (1.5, 2)}, TypeError, "window, left: expected an int, got float"),
    ({"window": (1, True)}, TypeError, "window, right: expected an int, got bool"),
    ({"scale": math.nan}, ValueError, "scale: expected a finite number in"),
    ({"scale": math.inf}, ValueError, "scale: expected a finite number in"),
    (
        {"scale": 1e300},
        ValueError,
        "scale: expected a finite number in [-3.40282e+38, 3.40282e+38], got 1e+300",
    ),
    ({"scale": "1"}, TypeError, "scale: expected a Python number, got str"),
    ({"softcap": -1.0}, ValueError, "softcap: expected a finite number in [0, 3.40282e+38], got -1.0"),
    ({"softcap": math.nan}, ValueError, "softcap: expected a finite number in"),
    ({"softcap": None}, TypeError, "softcap: expected a Python number, got NoneType"),
    ({"causal": 1}, TypeError, "causal: expected True or False, got int"),
    ({"causal": None}, TypeError, "causal: expected True or False, got NoneType"),
]
TRAINING = [
    ({"dropout_p": 1.0}, ValueError, "dropout_p: expected a probability in [0, 1), got 1.0"),
    ({"dropout_p": 1 - 1e-12}, ValueError, "dropout_p: expected a probability in [0, 1), got 0.99"),
    ({"dropout_p": -0.1}, ValueError, "dropout_p: expected a probability in [0, 1), got -0.1"),
    ({"dropout_p": math.nan}, ValueError, "dropout_p: expected a finite number"),
    ({"dropout_p": "a"}, TypeError, "dropout_p: expected a Python number, got str"),
    ({"training": 1}, TypeError, "training: expected True or False, got int"),
    ({"deterministic": None}, TypeError, "deterministic: expected True or False, got NoneType"),
]
IMPL = [({"impl": "gpu"}, ValueError, "impl: expected one of 'auto', 'fused', 'reference', got 'gpu'")]


def check_refused(operator, arguments, kind, message):
    expected = InvalidDtypeError if kind is TypeError else InvalidInputError
    with pytest.raises(expected, match=re.escape(message)):
        operator(**arguments)
    # Whichever implementation would run.
    if "impl" not in arguments:
        with pytest.raises(expected, match=re.escape(message)):
            operator(**arguments, impl="reference")


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    TENSORS + BIAS + SLOPES + KV_LENGTHS + Q_LENGTHS + NUMBERS + TRAINING + IMPL,
    ids=lambda x: x if isinstance(x, str) else "",
)
@pytest.mark.parametrize("operator", [attention, attention_with_lse])
def test_attention(operator, wrong, kind, message):
    check_refused(operator, {**INPUTS, **wrong}, kind, message)


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    TENSORS + BIAS + SLOPES + KV_LENGTHS + NUMBERS + IMPL,
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_decode(wrong, kind, message):
    arguments = {**INPUTS, **wrong}
    for name in ("key", "value"):
        arguments[f"{name}_cache"] = arguments.pop(name)
    check_refused(attention_decode, arguments, kind, message)


PACKING = [
    (
        {"query": ones(1, 10, 4, 8)},
        ValueError,
        "query: expected shape [tokens, num_heads, head_dim] with heads",
    ),
    ({"key": ones(12, 2, 9)}, ValueError, "key: expected shape [-1, -1, 8]"),
    (
        {"key": ones(12, 3, 8)},
        ValueError,
        "key: expected a number of heads that divides the 4 of query, got 3",
    ),
    (
        {"value": ones(11, 2, 8)},
        ValueError,
        "value: expected shape [12, 2, 8] (shape of key), got [11, 2, 8]",
    ),
    ({"cu_seqlens_q": [0, 10]}, TypeError, "cu_seqlens_q: expected a paddle.Tensor, got list"),
    ({"cu_seqlens_q": ones(3)}, TypeError, "cu_seqlens_q: expected dtype int32 or int64, got float32"),
    ({"cu_seqlens_q": ones(1, 3, dtype="int32")}, ValueError, "expected shape [batch_size + 1], got [1, 3]"),
    (
        {"cu_seqlens_k": ones(0, dtype="int32")},
        ValueError,
        "cu_seqlens_k: expected shape [batch_size + 1], got [0]",
    ),
    (
        {"cu_seqlens_q": ints(1, 4, 10)},
        ValueError,
        "cu_seqlens_q: expected to start with 0 and end with 10, the number of tokens, got 1 and 10",
    ),
    ({"cu_seqlens_k": ints(0, 3, 11)}, ValueError, "end with 12, the number of tokens, got 0 and 11"),
    (
        {"cu_seqlens_q": ints(0, 6, 4, 10)},
        ValueError,
        "cu_seqlens_q: expected no number below the one before it, got 4 after 6 at 2",
    ),
    (
        {"cu_seqlens_q": ints(0, 10)},
        ValueError,
        "cu_seqlens_k: expected shape [2] (shape of cu_seqlens_q), got [3]",
    ),
    ({"max_seqlen_q": 5}, ValueError, "max_seqlen_q: expected at least 6, the longest sequence, got 5"),
    ({"max_seqlen_k": 8}, ValueError, "max_seqlen_k: expected at least 9, the longest sequence, got 8"),
    ({"max_seqlen_q": 6.0}, TypeError, "max_seqlen_q: expected an int, got float"),
]


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    PACKING + SLOPES + NUMBERS + TRAINING + IMPL,
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_packed(wrong, kind, message):
    check_refused(attention_varlen, {**PACKED, **wrong}, kind, message)


def test_packed_takes_bounds_and_both_kinds_of_integers():
    plain = attention_varlen(**PACKED)
    starts = {name: PACKED[name].astype("int32") for name in ("cu_seqlens_q", "cu_seqlens_k")}
    bounded = attention_varlen(**{**PACKED, **starts}, max_seqlen_q=6, max_seqlen_k=100)
    np.testing.assert_array_equal(plain.numpy(), bounded.numpy())


def test_tensors_on_different_devices(monkeypatch):
    query = INPUTS["query"]
    monkeypatch.setattr(_attention_arguments, "device_of", lambda tensor: "cpu" if tensor is query else "gpu")
    with pytest.raises(
        InvalidInputError, match="key: expected a tensor on cpu, where query is, got one on gpu"
    ):
        attention(**INPUTS, window=(1, 1))


def test_nothing_is_drawn_before_an_error():
    paddle.seed(1)
    expected = paddle.rand([1]).item()
    paddle.seed(1)
    with pytest.raises(InvalidInputError):
        attention(**{**INPUTS, "value": ones(2, 6, 2, 8)}, dropout_p=0.5)
    assert paddle.rand([1]).item() == expected


# ------------------------------------------------------------------------------------------------ static programs


def program(function, **specs):
    spec = {name: paddle.static.InputSpec(shape, "float32", name=name) for name, shape in specs.items()}
    return paddle.jit.to_static(function, input_spec=list(spec.values()), full_graph=True)


def test_a_program_checks_what_it_knows():
    def wrong(query, key):
        return attention(query, key, key)

    with pytest.raises(InvalidInputError, match=r"key: expected shape \[-1, -1, -1, 8\]"):
        program(wrong, query=[None, None, 2, 8], key=[None, None, 2, 9]).concrete_program  # noqa: B018


def test_a_program_that_does_not_know_head_dim_needs_a_scale():
    def without(query):
        return attention(query, query, query, impl="fused")

    def with_scale(query):
        return attention(query, query, query, scale=0.5, impl="fused")

    with pytest.raises(
        InvalidInputError, match="scale: expected a number, because the program does not know head_dim"
    ):
        program(without, query=[None, None, 2, None]).concrete_program  # noqa: B018
    x = paddle.rand([1, 3, 2, 8])
    found = program(with_scale, query=[None, None, 2, None])(x)
    np.testing.assert_array_equal(found.numpy(), with_scale(x).numpy())


def test_the_plain_form_needs_to_know_the_heads():
    def plain(query):
        return attention(query, query, query, impl="reference")

    with pytest.raises(
        UnsupportedError, match="plain Paddle needs a program that knows num_heads and head_dim"
    ):
        program(plain, query=[None, None, None, 8]).concrete_program  # noqa: B018


# --------------------------------------------------------------------------------------------------------- choice


@pytest.mark.parametrize("operator", ["attention", "attention_with_lse"])
def test_what_the_fused_form_does_not_take_runs_in_plain_paddle(operator):
    wide = [ones(1, 2, 1, 257)] * 3
    dispatch = explain_dispatch(operator, *wide)
    assert dispatch.chosen == "reference"
    assert "fused cannot: the compiled kernel takes a head_dim up to 256, got 257" in str(dispatch)
    exact = [x.astype("float64") for x in INPUTS.values()]
    dispatch = explain_dispatch(operator, *exact, causal=True)
    assert dispatch.chosen == "reference"
    assert "fused cannot: the compiled kernel takes float32, float16, bfloat16, query is float64" in str(
        dispatch
    )
    assert attention(*wide).shape == [1, 2, 1, 257]
    assert attention(*exact).dtype == paddle.float64
    with pytest.raises(UnsupportedError, match="head_dim up to 256, got 257"):
        attention(*wide, impl="fused")
    with implementation("fused"), pytest.raises(UnsupportedError, match="query is float64"):
        attention(*exact)


def test_an_error_is_that_of_the_operator_also_in_explain_dispatch():
    with pytest.raises(InvalidInputError, match=r"kv_lengths\[1\]: expected a length in \[0, 7\], got 8"):
        explain_dispatch("attention", **INPUTS, kv_lengths=ints(7, 8))
    with pytest.raises(InvalidInputError, match="cu_seqlens_q: expected to start with 0"):
        explain_dispatch("attention_varlen", **{**PACKED, "cu_seqlens_q": ints(1, 10)})


def test_the_context_chooses(monkeypatch):
    called = []
    monkeypatch.setattr(
        _attention_operator, "_call", lambda *args: called.append("fused") or [args[0], args[0]]
    )
    attention(**INPUTS)
    attention(**INPUTS, window=(1, 1))
    assert called == ["fused", "fused"]
    with implementation("reference"):
        attention(**INPUTS)
        attention(**INPUTS, window=(1, 1))
        assert called == ["fused", "fused"]
        attention(**INPUTS, impl="fused")
    attention(**INPUTS, impl="reference")
    assert called == ["fused"] * 3


@pytest.mark.parametrize("operator", ["attention", "attention_with_lse", "attention_decode"])
def test_other_devices_run_in_plain_paddle(monkeypatch, operator):
    monkeypatch.setattr(_attention_operator, "device_of", lambda tensor: "gpu")
    dispatch = explain_dispatch(operator, *INPUTS.values())
    assert dispatch.chosen == "reference"
    assert "fused cannot: query is on a GPU, but the library was compiled without CUDA" in str(dispatch)


def test_without_the_library_plain_paddle_runs(monkeypatch):
    status = ExtensionStatus(False, extension.LIBRARY, ("it is not there",), MappingProxyType({}))
    expected = attention(**INPUTS).numpy()
    monkeypatch.setattr(extension, "load", lambda: status)
    assert "fused cannot: the compiled operators cannot be used: it is not there" in str(
        explain_dispatch("attention", **INPUTS)
    )
    np.testing.assert_allclose(attention(**INPUTS).numpy(), expected, rtol=1e-6)


# --------------------------------------------------------------------------------------------------------- decode


@pytest.mark.parametrize("impl", ["auto", "fused", "reference"])
@pytest.mark.parametrize("leaf", ["query", "key", "value", "bias"])
def test_decode_refuses_to_have_no_gradient_silently(leaf, impl):
    arguments = {**INPUTS, "bias": ones(1, 1, 5, 7)}
    arguments[leaf] = arguments[leaf].clone().detach()
    arguments[leaf].stop_gradient = False
    inputs = [arguments[name] for name in ("query", "key", "value")]
    with pytest.raises(
        UnsupportedError, match=r"attention_decode: expected .* call it under paddle.no_grad\(\)"
    ):
        attention_decode(*inputs, bias=arguments["bias"], impl=impl)
    with paddle.no_grad():
        out = attention_decode(*inputs, bias=arguments["bias"], impl=impl)
    assert out.stop_gradient
    assert out.shape == [BATCH, QUERIES, HEADS, DIM]
