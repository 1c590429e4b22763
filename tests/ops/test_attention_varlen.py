"""Attention on packed sequences."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra.ops import attention, attention_varlen
from tests.ops.attention_cases import make_case, tensors_of

IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])


def tensor(values, dtype="float32"):
    return paddle.to_tensor(np.array(values, dtype))


@IMPLS
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True},
        {"window": (3, 1)},
        {"alibi": (4,)},
        {"alibi": (5, 4)},
        {"softcap": 2.0, "scale": -0.3},
    ],
    ids=str,
)
def test_packed_equals_each_sequence_by_itself(impl, options):
    q_lengths, k_lengths = [3, 0, 70, 1, 5], [4, 6, 66, 0, 2]
    case = make_case(1, sum(q_lengths), sum(k_lengths), 4, 2, **{**options, "alibi": options.get("alibi")})
    leaves, given = tensors_of(case)
    packed = [leaves[name] for name in ("query", "key", "value")]
    starts = [np.concatenate([[0], np.cumsum(lengths)]) for lengths in (q_lengths, k_lengths)]
    slopes = given.pop("alibi_slopes", None)
    out = attention_varlen(
        *(x[0] for x in packed), tensor(starts[0], "int32"), tensor(starts[1], "int64"), impl=impl,
        alibi_slopes=slopes, **given,
    )  # fmt: skip
    out.backward(tensor(case.grad_out)[0])
    together = [out.numpy(), *(leaf.grad.numpy()[0] for leaf in packed)]
    for leaf in packed:
        leaf.clear_gradient(False)
    parts = []
    for b in range(len(q_lengths)):
        q, k = (slice(int(start[b]), int(start[b + 1])) for start in starts)
        own = slopes if slopes is None or slopes.ndim == 1 else slopes[b : b + 1]
        one = attention(
            packed[0][:, q], packed[1][:, k], packed[2][:, k], alibi_slopes=own, impl=impl, **given
        )
        one.backward(tensor(case.grad_out[:, q]))
        parts.append(one.numpy()[0])
    apart = [np.concatenate(parts), *(leaf.grad.numpy()[0] for leaf in packed)]
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@IMPLS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_without_tokens_or_sequences(impl, dtype):
    empty = paddle.zeros([0, 2, 4]).astype(dtype)
    some = paddle.ones([3, 2, 4]).astype(dtype)
    for starts in ([0], [0, 0, 0]):
        none = tensor(starts, "int32")
        assert attention_varlen(empty, empty, empty, none, none, impl=impl).shape == [0, 2, 4]
    out = attention_varlen(some, empty, empty, tensor([0, 3], "int32"), tensor([0, 0], "int32"), impl=impl)
    assert not out.astype("float32").numpy().any()
    assert out.dtype == some.dtype


def test_packed_dropout_is_the_same_in_both_implementations():
    rng = np.random.default_rng(0)
    x = tensor(rng.standard_normal((30, 2, 8)))
    starts = tensor([0, 11, 30], "int32")
    found = []
    for impl in ("fused", "reference"):
        paddle.seed(3)
        found.append(attention_varlen(x, x, x, starts, starts, dropout_p=0.5, impl=impl).numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)
