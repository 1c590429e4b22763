"""The registered operators themselves, as programs call them: without the checks of the Python functions."""

from __future__ import annotations

import math
import re

import numpy as np
import paddle
import pytest

from paddle_infra._core import extension
from tests.ops.fresh_process import python

# Paddle's own, from capturing a program with a gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")
BATCH, QUERIES, KEYS, HEADS, KV_HEADS, DIM = 2, 5, 7, 4, 2, 8


@pytest.fixture(scope="module", autouse=True)
def _operators():
    extension.require()


def random(*shape, dtype="float32", seed=0):
    return paddle.to_tensor(np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype))


def ints(*values, dtype="int32"):
    return paddle.to_tensor(np.array(values, dtype))


def inputs():
    key_shape = (BATCH, KEYS, KV_HEADS, DIM)
    return {
        "q": random(BATCH, QUERIES, HEADS, DIM),
        "k": random(*key_shape, seed=1),
        "v": random(*key_shape, seed=2),
    }


def packed_inputs(starts_q=(0, 4, 10), starts_k=(0, 3, 12)):
    key_shape = (12, KV_HEADS, DIM)
    tensors = {"q": random(10, HEADS, DIM), "k": random(*key_shape, seed=1), "v": random(*key_shape, seed=2)}
    return {**tensors, "cu_seqlens_q": ints(*starts_q), "cu_seqlens_k": ints(*starts_k)}


OPTIONS = ("cu_seqlens_q", "cu_seqlens_k", "q_lengths", "kv_lengths", "alibi_slopes", "seed")
ATTRIBUTES = {
    "window_left": -1,
    "window_right": -1,
    "scale": DIM**-0.5,
    "softcap": 0.0,
    "dropout_p": 0.0,
    "precision": 0,
    "max_seqlen_q": 0,
    "max_seqlen_k": 0,
}


def call(q, k, v, *, mask=None, bias=None, **given):
    """Out, lse and stats."""
    options = [given.get(name) for name in OPTIONS]
    attributes = [given.get(name, default) for name, default in ATTRIBUTES.items()]
    name = "paddle_infra_attention" if bias is None else "paddle_infra_attention_bias"
    return paddle._C_ops._run_custom_op(name, q, k, v, mask if bias is None else bias, *options, *attributes)


def decode(q, k, v, mask=None, kv_lengths=None, alibi_slopes=None, window=(-1, -1), softcap=0.0):
    """Out and lse."""
    return paddle._C_ops._run_custom_op(
        "paddle_infra_attention_decode", q, k, v, mask, kv_lengths, alibi_slopes, *window, DIM**-0.5, softcap
    )


def plain(q, k, v, bias=None):
    """Out and lse in plain Paddle."""
    groups = q.shape[2] // k.shape[2]
    k, v = (paddle.repeat_interleave(x, groups, axis=2) for x in (k, v))
    scores = paddle.einsum("bihd,bjhd->bhij", q, k) * DIM**-0.5
    scores = scores if bias is None else scores + bias
    return paddle.einsum("bhij,bjhd->bihd", paddle.nn.functional.softmax(scores), v), paddle.logsumexp(
        scores, -1
    )


WIDE = {"q": (2, 1, 4, 257), "k": (2, 3, 4, 257), "v": (2, 3, 4, 257)}
WRONG = {
    "another dtype": (
        lambda: {"q": random(2, 5, 4, 8, dtype="float16")},
        "key: expected float16, got float32",
    ),
    "float64": (
        lambda: {name: x.astype("float64") for name, x in inputs().items()},
        "query: expected float32, float16 or bfloat16, got float64",
    ),
    "rank": (
        lambda: {"q": random(5, 4, 8)},
        "query: expected shape [batch_size, seq_len, heads, head_dim], got [5, 4, 8]",
    ),
    "heads": (
        lambda: {"k": random(2, 7, 3, 8)},
        "key: expected the batch size and head_dim of query [2, 5, 4, 8] and a divisor of its number of heads, "
        "got [2, 7, 3, 8]",
    ),
    "no heads": (lambda: {"k": random(2, 7, 0, 8), "v": random(2, 7, 0, 8)}, "key: expected the batch size"),
    "batch": (lambda: {"k": random(3, 7, 2, 8)}, "key: expected the batch size"),
    "head_dim of key": (lambda: {"k": random(2, 7, 2, 9)}, "key: expected the batch size"),
    "value": (
        lambda: {"v": random(2, 6, 2, 8)},
        "value: expected shape [2, 7, 2, 8], got [2, 6, 2, 8]",
    ),
    "head_dim": (
        lambda: {name: random(*shape) for name, shape in WIDE.items()},
        "head_dim: expected 1 to 256, got 257",
    ),
    "long length": (
        lambda: {"kv_lengths": ints(7, 8)},
        "kv_lengths[1]: expected a length in [0, 7], got 8",
    ),
    "negative length": (
        lambda: {"q_lengths": ints(-1, 5)},
        "q_lengths[0]: expected a length in [0, 5], got -1",
    ),
    "dtype of lengths": (
        lambda: {"kv_lengths": ints(7, 7, dtype="int64")},
        "kv_lengths: expected int32, got int64",
    ),
    "number of lengths": (lambda: {"kv_lengths": ints(7)}, "kv_lengths: expected shape [2], got [1]"),
    "mask": (
        lambda: {"mask": paddle.ones([2, 1, 5, 6], "bool")},
        "bias: expected each axis 1 or as in [2, 4, 5, 7], got [2, 1, 5, 6]",
    ),
    "rank of bias": (
        lambda: {"bias": random(5, 7)},
        "bias: expected each axis 1 or as in [2, 4, 5, 7], got [5, 7]",
    ),
    "dtype of mask": (
        lambda: {"mask": ints(1).reshape([1, 1, 1, 1])},
        "bias: expected float32 or bool, got int32",
    ),
    "slopes": (lambda: {"alibi_slopes": random(3)}, "alibi_slopes: expected shape [4] or [2, 4], got [3]"),
    "window": (
        lambda: {"window_left": -2},
        "window: expected sizes of 0 or more, or -1 for no limit, got (-2, -1)",
    ),
    "scale": (lambda: {"scale": math.nan}, "scale: expected a finite number, got nan"),
    "softcap": (lambda: {"softcap": -1.0}, "softcap: expected 0 or a finite positive number, got -1"),
    "dropout_p": (lambda: {"dropout_p": 1.0}, "dropout_p: expected a probability in [0, 1), got 1"),
    "no seed": (
        lambda: {"dropout_p": 0.5},
        "seed: expected a tensor because dropout_p is not 0, got none",
    ),
    "seeds": (
        lambda: {"dropout_p": 0.5, "seed": ints(1, 2, dtype="int64")},
        "seed: expected one number, got 2",
    ),
    "precision": (lambda: {"precision": 2}, "precision: expected 0 (highest) or 1 (medium), got 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(name):
    make, message = WRONG[name]
    with pytest.raises(ValueError, match=re.escape(f"attention: {message}")):
        call(**{**inputs(), **make()})


def test_a_bias_with_a_gradient_is_no_mask():
    mask = paddle.ones([1, 1, 5, 7], "bool")
    with pytest.raises(ValueError, match="attention: bias: expected float32, got bool"):
        call(**inputs(), bias=mask)


WRONG_PACKING = {
    "start": ({"starts_q": (1, 4, 10)}, {}, "cu_seqlens_q: expected to start with 0 and end with 10, the number"),
    "end": ({"starts_k": (0, 3, 11)}, {}, "cu_seqlens_k: expected to start with 0 and end with 12, the number of "
            "tokens, got 0 and 11"),
    "order": ({"starts_q": (0, 6, 4, 10)}, {}, "expected no number below the one before it, got 4 after 6"),
    "one": (
        {},
        {"cu_seqlens_k": None},
        "cu_seqlens_q and cu_seqlens_k: expected both or neither, got one",
    ),
    "count": ({"starts_q": (0, 10)}, {}, "cu_seqlens_k: expected as many numbers as cu_seqlens_q has, 2, got 3"),
    "bound": ({}, {"max_seqlen_q": 5}, "max_seqlen_q: expected at least 6, the longest sequence, got 5"),
    "bias": ({}, {"mask": paddle.ones([1, 1, 1, 1])}, "bias: not possible with packed sequences"),
    "lengths": ({}, {"kv_lengths": ints(4, 1)}, "kv_lengths[0]: expected a length in [0, 3], got 4"),
    "dtype": ({}, {"cu_seqlens_q": ints(0, 10, dtype="int64")}, "cu_seqlens_q: expected int32, got int64"),
    "rank": ({}, {"q": random(1, 10, 4, 8)}, "query: expected shape [tokens, heads, head_dim], got [1, 10, 4, 8]"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_PACKING)
def test_errors_of_packed_sequences(name):
    starts, options, message = WRONG_PACKING[name]
    with pytest.raises(ValueError, match="attention_varlen: .*" + re.escape(message)):
        call(**{**packed_inputs(**starts), **options})


def test_errors_of_decode_name_it():
    with pytest.raises(
        ValueError, match=r"attention_decode: kv_lengths\[0\]: expected a length in \[0, 7\], got 9"
    ):
        decode(**inputs(), kv_lengths=ints(9, 1))


def test_a_program_with_a_bad_shape_is_refused_when_it_runs():
    def program(query):
        return call(query, query, query)[0]

    spec = [paddle.static.InputSpec([None, 4], "float32")]
    compiled = paddle.jit.to_static(program, input_spec=spec, full_graph=True)
    with pytest.raises(ValueError, match=r"attention: query: expected shape \[batch_size.*got \[3, 4\]"):
        compiled(paddle.ones([3, 4]))


@pytest.mark.parametrize("is_static", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("used", [("out",), ("lse",), ("out", "lse")])
def test_gradients_if_only_some_results_are_used(is_static, has_bias, used):
    def loss(operator, q, k, v, bias):
        results = dict(zip(("out", "lse"), operator(q, k, v, bias=bias), strict=False))
        return sum((results[name] ** 2).sum() for name in used)

    def fused_loss(q, k, v, bias):
        return loss(lambda *args, **kwargs: call(*args, **kwargs)[:2], q, k, v, bias)

    forward = paddle.jit.to_static(fused_loss, full_graph=True) if is_static else fused_loss
    results = []
    for compute in (forward, lambda *args: loss(plain, *args)):
        arguments = [*inputs().values(), random(1, HEADS, QUERIES, KEYS) if has_bias else None]
        for tensor in filter(lambda x: x is not None, arguments):
            tensor.stop_gradient = False
        compute(*arguments).backward()
        gradients = [tensor.grad for tensor in arguments if tensor is not None]
        # The values have no part in lse: Paddle itself then leaves their gradient away.
        results.append([np.zeros(1) if gradient is None else gradient.numpy() for gradient in gradients])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-4, atol=1e-5)


def test_inputs_that_are_not_contiguous():
    q, k, v = inputs().values()
    views = [x.transpose([1, 2, 0, 3]).contiguous().transpose([2, 0, 1, 3]) for x in (q, k, v)]
    for found, expected in zip(call(*views), call(q, k, v), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())


SIZES = {"no batch": (0, 5, 7), "no queries": (2, 0, 7), "no keys": (2, 5, 0)}


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_empty_tensors(name, has_bias):
    batch, queries, keys = SIZES[name]
    shapes = (batch, queries, HEADS, DIM), (batch, keys, KV_HEADS, DIM), (batch, keys, KV_HEADS, DIM)
    arguments = [random(*shape) for shape in shapes] + ([random(1, HEADS, queries, keys)] if has_bias else [])
    for tensor in arguments:
        tensor.stop_gradient = False
    out, lse, _ = call(*arguments[:3], bias=arguments[3] if has_bias else None)
    assert out.shape == list(shapes[0])
    assert lse.shape == [batch, HEADS, queries]
    assert not out.numpy().any()
    assert (lse.numpy() == -np.inf).all()
    (out.sum() + lse.sum()).backward()
    for tensor in arguments:
        assert tensor.grad.shape == tensor.shape
        assert not tensor.grad.numpy().any()
    with paddle.no_grad():
        decoded = decode(*arguments[:3])
    np.testing.assert_array_equal(decoded[0].numpy(), out.numpy())
    np.testing.assert_array_equal(decoded[1].numpy(), lse.numpy())


def test_packed_sequences_without_any_token():
    tensors = [random(0, HEADS, DIM), random(0, KV_HEADS, DIM), random(0, KV_HEADS, DIM)]
    out, lse, _ = call(*tensors, cu_seqlens_q=ints(0), cu_seqlens_k=ints(0))
    assert out.shape == [0, HEADS, DIM]
    assert lse.shape == [HEADS, 0]


def test_decode_has_no_gradient():
    tensors = inputs()
    tensors["q"].stop_gradient = False
    out, lse = decode(**tensors)
    assert out.stop_gradient
    assert lse.stop_gradient


WITHOUT_PYTHON = """
import sys
import paddle
from paddle.utils.cpp_extension import load_op_meta_info_and_register_op

load_op_meta_info_and_register_op(sys.argv[1])
q = paddle.ones([1, 1, 1, 8])
try:
    paddle._C_ops._run_custom_op("paddle_infra_attention_decode", q, q, q, None, None, None, -1, -1, 1.0, 0.0)
except ValueError as error:
    print(error)
"""


def test_a_wrong_instruction_set_is_refused_without_the_python_package_too():
    printed = python(WITHOUT_PYTHON, str(extension.require().path), PADDLE_INFRA_ISA="sse")
    assert "attention_decode: PADDLE_INFRA_ISA: expected one of portable, avx2, " in printed
