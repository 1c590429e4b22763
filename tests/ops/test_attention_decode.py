"""Attention of new queries to a cache."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddle_infra.ops import attention, attention_decode
from tests.ops.attention_cases import make_case, tensors_of
from tests.ops.attention_gold import gold

IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])


def tensor(values, dtype="float32"):
    return paddle.to_tensor(np.array(values, dtype))


@IMPLS
@pytest.mark.parametrize("new", [1, 2, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": False},
        {"window": (6, None)},
        {"alibi": (2, 4)},
        {"alibi": (4,), "softcap": 2.0, "scale": -0.4},
        {"bias": (2, 4, 1, 300)},
        {"mask": (1, 300)},
    ],
    ids=str,
)
def test_decode_equals_the_last_rows_of_attention(impl, new, options):
    case = make_case(2, new, 300, 4, 2, 16, **{"causal": True, **options})
    leaves, given = tensors_of(case)
    bias, slopes = given.pop("bias", None), given.pop("alibi_slopes", None)
    query, key, value = (leaves[name].detach() for name in ("query", "key", "value"))
    bias = None if bias is None else bias.detach()
    for length in (0, 1, 3, 64, 65, 299, 300):
        lengths = tensor([length, max(length - 1, 0)], "int64")
        out = attention_decode(
            query, key, value, kv_lengths=lengths, bias=bias, alibi_slopes=slopes, impl=impl, **given
        )
        for b in range(2):
            n = int(lengths[b])
            own = slopes if slopes is None or slopes.ndim == 1 else slopes[b : b + 1]
            some = None if bias is None else bias[..., :n] if bias.ndim < 4 else bias[b : b + 1, ..., :n]
            expected = attention(
                query[b : b + 1], key[b : b + 1, :n], value[b : b + 1, :n], bias=some, alibi_slopes=own,
                impl="reference", **given,
            )  # fmt: skip
            np.testing.assert_allclose(out[b].numpy(), expected[0].numpy(), rtol=1e-4, atol=1e-5)


@IMPLS
def test_decode_never_reads_what_does_not_exist(impl):
    case = make_case(1, 1, 40, 2)
    query, key, value = (tensor(x) for x in (case.query, case.key, case.value))
    lengths = tensor([7], "int32")
    expected = attention_decode(query, key, value, kv_lengths=lengths, impl=impl).numpy()
    key[:, 7:] = math.nan
    value[:, 7:] = math.nan
    found = attention_decode(query, key, value, kv_lengths=lengths, impl=impl).numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_decode_of_narrow_dtypes(dtype):
    case = make_case(2, 1, 130, 4, 2, 24, dtype=dtype)
    tensors = [tensor(x).astype(dtype) for x in (case.query, case.key, case.value)]
    out = attention_decode(*tensors, impl="fused")
    assert str(out.dtype) == f"paddle.{dtype}"
    truth = gold(case).results["out"]
    epsilon = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    assert np.abs(out.astype("float32").numpy() - truth).max() <= epsilon * np.abs(truth).max()
