"""Attention in programs of unknown sizes: equal to dygraph in both forms, and exported to ONNX in plain Paddle."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra.export import to_onnx
from paddle_infra.ops import attention, attention_decode, attention_varlen, implementation

# Paddle's own, from capturing a program with a gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")
HEADS, KV_HEADS, DIM = 4, 2, 8


def spec(*shape, dtype="float32"):
    return paddle.static.InputSpec(list(shape), dtype)


def random(*shape):
    return paddle.to_tensor(np.random.default_rng(shape).standard_normal(shape).astype("float32"))


QKV = [spec(None, None, HEADS, DIM), spec(None, None, KV_HEADS, DIM), spec(None, None, KV_HEADS, DIM)]


def qkv(length, batch=2):
    return [
        random(batch, length, HEADS, DIM),
        random(batch, length + 2, KV_HEADS, DIM),
        random(batch, length + 2, KV_HEADS, DIM),
    ]


def plain(query, key, value):
    return attention(query, key, value)


def windowed(query, key, value):
    return attention(query, key, value, causal=True, window=(3, None), softcap=2.0, scale=-0.3)


def dropping(query, key, value):
    return attention(query, key, value, dropout_p=0.5)


def padded(query, key, value, kv_lengths, q_lengths, slopes, bias):
    return attention(
        query, key, value, kv_lengths=kv_lengths, q_lengths=q_lengths, alibi_slopes=slopes, bias=bias
    )


def masked(query, key, value, mask):
    return attention(query, key, value, bias=mask, causal=True)


def packed(query, key, value, starts_q, starts_k):
    return attention_varlen(query, key, value, starts_q, starts_k, causal=True, dropout_p=0.2)


def bounded(query, key, value, starts_q, starts_k):
    return attention_varlen(query, key, value, starts_q, starts_k, max_seqlen_q=40, max_seqlen_k=40)


PADDED = [
    *QKV,
    spec(None, dtype="int64"),
    spec(None, dtype="int32"),
    spec(None, HEADS),
    spec(None, 1, None, None),
]
PACKED = [spec(None, *list(x.shape)[2:]) for x in QKV] + [
    spec(None, dtype="int64"),
    spec(None, dtype="int32"),
]


def padded_inputs(n):
    lengths = [paddle.to_tensor([n + 2, 2]), paddle.to_tensor(np.array([1, n], "int32"))]
    return [*qkv(n), *lengths, paddle.rand([2, HEADS]), random(2, 1, n, n + 2)]


def packed_inputs(n):
    starts = [paddle.to_tensor([0, 2, 2, n]), paddle.to_tensor(np.array([0, 1, 2, n + 2], "int32"))]
    return [x[0] for x in qkv(n)] + starts


CASES = {
    "plain": (plain, QKV, qkv),
    "windowed": (windowed, QKV, qkv),
    "dropping": (dropping, QKV, qkv),
    "padded": (padded, PADDED, padded_inputs),
    "masked": (
        masked,
        [*QKV, spec(None, 1, 1, None, dtype="bool")],
        lambda n: [*qkv(n), random(2, 1, 1, n + 2) > 0],
    ),
    "packed": (packed, PACKED, packed_inputs),
    "bounded": (bounded, PACKED, packed_inputs),
}


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("name", CASES)
def test_a_program_of_unknown_sizes_equals_dygraph(name, impl):
    function, specs, make = CASES[name]
    with implementation(impl):
        program = paddle.jit.to_static(function, input_spec=specs, full_graph=True)
        for length in (3, 17):
            inputs = make(length)
            for tensor in inputs[:3]:
                tensor.stop_gradient = False
            found = []
            for forward in (function, program):
                paddle.seed(2)
                out = forward(*inputs)
                (out**2).sum().backward()
                found.append([out.numpy(), *(tensor.grad.numpy() for tensor in inputs[:3])])
                for tensor in inputs[:3]:
                    tensor.clear_gradient(False)
            for dygraph, static in zip(*found, strict=True):
                np.testing.assert_allclose(static, dygraph, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_decode_in_a_program_of_unknown_sizes(impl):
    def decode(query, key, value, lengths):
        return attention_decode(query, key, value, kv_lengths=lengths, window=(9, None), impl=impl)

    program = paddle.jit.to_static(decode, input_spec=[*QKV, spec(None, dtype="int64")], full_graph=True)
    with paddle.no_grad():
        for new in (1, 3):
            query, (_, key, value) = qkv(new)[0], qkv(30)
            inputs = [query, key, value, paddle.to_tensor([32, 2])]
            np.testing.assert_allclose(program(*inputs).numpy(), decode(*inputs).numpy(), atol=1e-6)


class Exported(paddle.nn.Layer):
    def __init__(self, options: dict, has_slopes: bool = False) -> None:
        super().__init__()
        self.inner = paddle.nn.Linear(DIM, DIM)
        self.options = options
        self.register_buffer("slopes", paddle.linspace(0.1, 0.4, HEADS))
        self.has_slopes = has_slopes

    def forward(self, query, key, extra):
        given = {**self.options}
        if self.has_slopes:
            given["alibi_slopes"] = self.slopes
        if extra.ndim == 1:
            given["kv_lengths"] = given["q_lengths"] = extra
        else:
            given["bias"] = extra
        return attention(self.inner(query), key, key, **given)


BIAS = np.random.default_rng(0).standard_normal((2, 1, 1, 5)).astype("float32")
EXPORTS = {
    "bias": (Exported({}), BIAS),
    "causal": (Exported({"causal": True, "window": (2, 1), "softcap": 2.0}), BIAS),
    "slopes": (Exported({"causal": True}, has_slopes=True), BIAS),
    "mask": (Exported({}), BIAS > -0.5),
    "lengths": (Exported({}), np.array([5, 3])),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_the_plain_form_exports_to_onnx_with_dynamic_axes(tmp_path, name):
    pytest.importorskip("paddle2onnx")
    layer, extra = EXPORTS[name]
    layer.eval()
    rng = np.random.default_rng(0)
    inputs = {
        "query": rng.standard_normal((2, 5, HEADS, DIM)).astype("float32"),
        "key": rng.standard_normal((2, 5, KV_HEADS, DIM)).astype("float32"),
        "extra": extra,
    }
    axes = {name: {0: "batch", 1: "length"} for name in ("query", "key")}
    axes["extra"] = {0: "batch"} if extra.ndim == 1 else {0: "batch", 3: "length"}
    # Compares with ONNX Runtime, for other sizes too, or raises.
    report = to_onnx(layer, tmp_path / "export", inputs, dynamic_axes=axes, output_names=("out",))
    assert (report.path / "model.onnx").is_file()
