"""Attention in dygraph: pinned by hand, then every option by itself against float64."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddle_infra.ops import attention, attention_with_lse
from tests.ops.attention_cases import check, everything, make_case, run, tensors_of
from tests.ops.attention_gold import gold, visible

IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])


def tensor(values, dtype="float32"):
    return paddle.to_tensor(np.array(values, dtype))


def column(*values):
    """One batch entry and head, head_dim 1."""
    return tensor(values).reshape([1, len(values), 1, 1])


# ------------------------------------------------------------ by hand


@IMPLS
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Products 0 for all keys: means of the visible values 1, 2, 4, 8 (two queries).
        ({}, [15 / 4, 15 / 4]),
        ({"causal": True}, [7 / 3, 15 / 4]),
        ({"window": (1, None)}, [14 / 3, 12 / 2]),
        ({"window": (1, 0)}, [6 / 2, 12 / 2]),
        ({"window": (0, 0)}, [4, 8]),
        ({"window": (None, 0)}, [7 / 3, 15 / 4]),
        ({"window": [None, None]}, [15 / 4, 15 / 4]),
        ({"causal": True, "window": (1, 3)}, [6 / 2, 12 / 2]),
        ({"kv_lengths": tensor([2], "int64")}, [3 / 2, 3 / 2]),
        ({"kv_lengths": tensor([3], "int32"), "causal": True}, [7 / 3, 7 / 3]),
        ({"kv_lengths": tensor([0], "int64")}, [0, 0]),
        ({"q_lengths": tensor([1], "int64")}, [15 / 4, 0]),
        ({"bias": tensor([True, False, True, False], "bool")}, [5 / 2, 5 / 2]),
        ({"bias": tensor([[True], [False]], "bool")}, [15 / 4, 0]),
        ({"bias": tensor([0, -np.inf, -np.inf, 0])}, [9 / 2, 9 / 2]),
        ({"bias": tensor([0, -np.inf, -np.inf, math.log(3)])}, [25 / 4, 25 / 4]),
        ({"bias": tensor(5.0)}, [15 / 4, 15 / 4]),
        # Weights 2^-distance: of the first query 1/4, 1/2, 1, 1/2; of the second 1/8, 1/4, 1/2, 1.
        ({"alibi_slopes": tensor([math.log(2)])}, [9.25 / 2.25, 10.625 / 1.875]),
        ({"alibi_slopes": tensor([[math.log(2)]]), "causal": True}, [5.25 / 1.75, 10.625 / 1.875]),
    ],
    ids=str,
)
def test_who_sees_whom(impl, options, expected):
    out = attention(column(0, 0), column(3, 1, 4, 1), column(1, 2, 4, 8), impl=impl, **options)
    np.testing.assert_allclose(out.numpy().ravel(), expected, rtol=1e-6)


@IMPLS
def test_scores(impl):
    # Products 2 log 2 and 0: scale 1/2 makes the weights 2 and 1.
    query, key, value = column(2 * math.log(2)), column(1, 0), column(3, 9)
    out, lse = attention_with_lse(query, key, value, scale=0.5, impl=impl)
    assert out.item() == pytest.approx((2 * 3 + 9) / 3)
    assert lse.item() == pytest.approx(math.log(3))
    negative = attention(query, key, value, scale=-0.5, impl=impl)
    assert negative.item() == pytest.approx((3 / 2 + 9) / (3 / 2))
    out, lse = attention_with_lse(column(1e3), key, value, softcap=math.log(5), impl=impl)
    assert out.item() == pytest.approx((5 * 3 + 9) / 6)
    assert lse.item() == pytest.approx(math.log(6))
    capped_before_bias = attention(
        column(1e3), key, value, softcap=math.log(5), bias=tensor([math.log(2), 0]), impl=impl
    )
    assert capped_before_bias.item() == pytest.approx((10 * 3 + 9) / 11)


@IMPLS
def test_the_scale_is_one_over_the_root_of_head_dim(impl):
    query = paddle.full([1, 1, 1, 4], math.log(2) / 2)
    key = paddle.concat([paddle.ones([1, 1, 1, 4]), paddle.zeros([1, 1, 1, 4])], axis=1)
    assert attention_with_lse(query, key, key, impl=impl)[1].item() == pytest.approx(math.log(3))


@IMPLS
def test_neighbouring_query_heads_share_a_key_head(impl):
    value = tensor([[10.0, 20.0]]).reshape([1, 1, 2, 1])
    out = attention(paddle.ones([1, 1, 6, 1]), paddle.ones([1, 1, 2, 1]), value, impl=impl)
    assert out.numpy().ravel().tolist() == [10, 10, 10, 20, 20, 20]


@IMPLS
def test_gradients_by_hand(impl):
    # Weights 1/2 each, values 3 and 9: d out / d score is ±(9 - 3) / 4.
    query, key, value, bias = column(0), column(2, 5), column(3, 9), tensor([0, 0])
    for leaf in (query, key, value, bias):
        leaf.stop_gradient = False
    out, lse = attention_with_lse(query, key, value, bias=bias, impl=impl)
    paddle.autograd.backward([out, lse], [column(1), tensor([[[4.0]]])])
    # And d lse / d score is 1/2 for each.
    np.testing.assert_allclose(bias.grad.numpy(), [-1.5 + 2, 1.5 + 2], rtol=1e-6)
    np.testing.assert_allclose(query.grad.numpy().ravel(), [2 * 0.5 + 5 * 3.5], rtol=1e-6)
    np.testing.assert_allclose(key.grad.numpy().ravel(), [0, 0])
    np.testing.assert_allclose(value.grad.numpy().ravel(), [0.5, 0.5], rtol=1e-6)


def test_gold_is_pinned_by_finite_differences():
    case = make_case(
        2, 3, 4, 2, 1, 3, bias=(2, 1, 3, 1), kv_lengths=[4, 3], alibi=(2,), softcap=1.5, scale=-0.7,
        dropout_p=0.3, window=(2, 1),
    )  # fmt: skip

    def total():
        found = gold(case, seed=5).results
        lse = np.where(np.isfinite(found["lse"]), found["lse"], 0.0)
        return (found["out"] * case.grad_out).sum() + (lse * case.grad_lse).sum()

    truth = gold(case, seed=5).results
    for name in ("query", "key", "value", "bias"):
        values = getattr(case, name).astype("float64")
        setattr(case, name, values)
        for index in np.ndindex(values.shape):
            kept, around = values[index], []
            for step in (1e-5, -1e-5):
                values[index] = kept + step
                around.append(total())
            values[index] = kept
            assert (around[0] - around[1]) / 2e-5 == pytest.approx(truth[name][index], abs=1e-8)


# ------------------------------------------------------------ options by themselves

LENGTHS = [(1, 1), (1, 70), (5, 7), (7, 5), (64, 64), (65, 63), (70, 130), (130, 70), (129, 257)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_lengths(lengths, causal):
    check(make_case(2, *lengths, 2, causal=causal))


@pytest.mark.parametrize(
    "window",
    [(0, 0), (3, 0), (0, 3), (5, 5), (None, 2), (2, None), (64, 64), (70, 0), (200, 200), (10**30, 3)],
    ids=str,
)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(9, 12), (100, 140), (140, 100)], ids=str)
def test_window(lengths, window, causal):
    check(make_case(1, *lengths, 2, window=window, causal=causal))


SHAPE = (2, 4, 37, 71)
PATTERNS = [tuple(size if keep & 1 << axis else 1 for axis, size in enumerate(SHAPE)) for keep in range(16)]
PATTERNS += [(), (71,), (37, 1), (37, 71), (4, 1, 1), (4, 37, 71), (1, 1, 71)]


@pytest.mark.parametrize("kind", ["bias", "mask"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_every_broadcast_pattern(pattern, kind):
    check(make_case(2, 37, 71, 4, 2, **{kind: pattern}))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_a_bias_of_another_dtype_gets_its_gradient_in_it(dtype):
    case = make_case(1, 3, 5, 2, bias=(1, 1, 3, 5))
    found = {}
    for wanted in ("float32", dtype):
        leaves, options = tensors_of(case)
        bias = leaves["bias"].detach().astype("float16").astype("bfloat16").astype(wanted)
        bias.stop_gradient = False
        options["bias"] = bias
        out = attention(leaves["query"], leaves["key"], leaves["value"], **options)
        out.sum().backward()
        assert bias.grad.dtype == bias.dtype
        found[wanted] = out.numpy(), bias.grad.astype("float32").numpy()
    np.testing.assert_array_equal(found["float32"][0], found[dtype][0])
    np.testing.assert_allclose(found["float32"][1], found[dtype][1], rtol=8e-3)


@pytest.mark.parametrize(
    "lengths",
    [
        {"kv_lengths": [33, 70]},
        {"kv_lengths": [0, 1]},
        {"q_lengths": [33, 70]},
        {"q_lengths": [0, 1]},
        {"q_lengths": [65, 10], "kv_lengths": [10, 65]},
        {"q_lengths": [0, 70], "kv_lengths": [70, 0]},
    ],
    ids=str,
)
@pytest.mark.parametrize("causal", [False, True])
def test_padding(lengths, causal):
    check(make_case(2, 70, 70, 2, causal=causal, **lengths))


@IMPLS
def test_padding_may_hold_anything(impl):
    case = make_case(2, 9, 11, 2, kv_lengths=[6, 11], q_lengths=[9, 4])
    clean = run(case, impl)
    for name, start in (("query", [9, 4]), ("key", [6, 11]), ("value", [6, 11])):
        for row in range(2):
            getattr(case, name)[row, start[row] :] = np.nan
    case.grad_out[1, 4:] = np.nan
    for name, found in run(case, impl).items():
        np.testing.assert_array_equal(found, clean[name])


@pytest.mark.parametrize("heads", [(1, 1), (6, 3), (6, 2), (6, 1), (5, 5)], ids=str)
def test_shared_key_heads(heads):
    check(make_case(2, 33, 70, *heads, 16, causal=True))


@pytest.mark.parametrize("shape", [(4,), (2, 4)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_alibi(shape, causal):
    check(make_case(2, 70, 90, 4, 2, alibi=shape, causal=causal))


@IMPLS
def test_slopes_and_masks_get_no_gradient(impl):
    leaves, options = tensors_of(make_case(1, 3, 5, 2, alibi=(2,), mask=(3, 5)))
    options["alibi_slopes"].stop_gradient = False
    attention(leaves["query"], leaves["key"], leaves["value"], impl=impl, **options).sum().backward()
    assert options["alibi_slopes"].grad is None
    assert leaves["query"].grad is not None


@pytest.mark.parametrize("softcap", [0.3, 2.0, 50.0])
def test_softcap(softcap):
    check(make_case(1, 70, 66, 2, softcap=softcap, logits=5.0))


@pytest.mark.parametrize("scale", [1.0, 0.01, 0.0, -0.5, None, 3])
def test_scale(scale):
    check(make_case(1, 40, 66, 2, scale=scale))


@pytest.mark.parametrize("head_dim", [1, 2, 3, 8, 15, 17, 32, 64, 80, 96, 128, 200, 255, 256])
def test_head_dim(head_dim):
    check(make_case(1, 35, 67, 2, 1, head_dim, causal=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"causal": True, "bias": (37, 71)}, {"dropout_p": 0.2}], ids=str)
def test_narrow_dtypes(dtype, options):
    case = make_case(2, 37, 71, 4, 2, 24, dtype=dtype, **options)
    check(case)
    leaves, _ = tensors_of(case)
    out, lse = attention_with_lse(*(leaves[name] for name in ("query", "key", "value")))
    assert str(out.dtype) == f"paddle.{dtype}"
    assert lse.dtype == paddle.float32


def test_everything_at_once():
    check(everything())
    check(everything(dtype="bfloat16", seed=1))


def test_float64_runs_in_plain_paddle_to_float64_accuracy():
    case = everything(dropout_p=0.0)
    truth, leaves_options = gold(case).results, tensors_of(case)
    leaves, options = leaves_options
    wide = [leaves[name].detach().astype("float64") for name in ("query", "key", "value")]
    for leaf in wide:
        leaf.stop_gradient = False
    out, lse = attention_with_lse(*wide, **options)
    assert out.dtype == lse.dtype == paddle.float64
    paddle.autograd.backward([out, lse], [tensor(case.grad_out, "float64"), tensor(case.grad_lse, "float64")])
    found = [out, lse, *(leaf.grad for leaf in wide)]
    for name, value in zip(("out", "lse", "query", "key", "value"), found, strict=True):
        np.testing.assert_allclose(value.numpy(), truth[name], rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------ hard inputs


@IMPLS
@pytest.mark.parametrize(
    "options",
    [
        {"kv_lengths": [0]},
        {"q_lengths": [0]},
        {"mask": None},
        {"window": (0, 0), "kv_lengths": [2]},  # the queries are level with keys that do not exist
    ],
    ids=str,
)
def test_rows_without_a_key_are_zero_and_pass_nothing_on(impl, options):
    options = dict(options)
    is_masked = "mask" in options
    options.pop("mask", None)
    case = make_case(1, 3, 9, 2, bias=(3, 9), **options)
    if is_masked:
        case.bias[:] = -np.inf
    assert not visible(case)[0].any() or is_masked
    found = run(case, impl)
    assert (found.pop("lse") == -np.inf).all()
    for name, value in found.items():
        assert not value.any(), name


@IMPLS
def test_the_lowest_number_hides_like_minus_infinity(impl):
    case = make_case(1, 4, 9, 2, bias=(4, 9))
    case.bias[:, :5] = -np.inf
    case.bias[2] = -np.inf
    infinite = run(case, impl)
    case.bias[:, :5] = np.finfo("float32").min
    case.bias[2] = np.finfo("float32").min
    for name, value in run(case, impl).items():
        np.testing.assert_array_equal(value, infinite[name], err_msg=name)


@IMPLS
@pytest.mark.parametrize("sizes", [(0, 5, 7), (2, 0, 7), (2, 5, 0), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("bias", [None, "full", "keys"])
def test_empty_tensors(impl, sizes, bias):
    batch, seq_q, seq_k = sizes
    shape = {None: None, "full": (batch, 2, seq_q, seq_k), "keys": (seq_k,)}[bias]
    case = make_case(*sizes, 2, bias=shape, causal=True, kv_lengths=[0] * batch)
    found = run(case, impl)
    assert found["out"].shape == (batch, seq_q, 2, 8)
    assert found["lse"].shape == (batch, 2, seq_q)
    assert (found["lse"] == -np.inf).all()
    for name in ("query", "key", "value") + (("bias",) if bias else ()):
        assert found[name].shape == getattr(case, name).shape, name
        assert not found[name].any(), name
    assert not found["out"].any()


@pytest.mark.parametrize("logits", [1e2, 1e4])
def test_large_random_logits(logits):
    check(make_case(1, 40, 70, 2, logits=logits, causal=True), ["highest"])


@IMPLS
def test_large_exact_logits_lose_nothing(impl):
    # Products and sums are exact, so the softmax of differences of 0, 1, 2 is as exact as for small logits.
    key = column(10000, 9999, 9998, -10000)
    out = attention(column(1), key, column(1, 2, 4, 1e6), impl=impl)
    weights = np.exp([0.0, -1.0, -2.0])
    assert out.item() == pytest.approx(weights @ [1, 2, 4] / weights.sum(), rel=1e-6)


@IMPLS
def test_nan_is_not_hidden(impl):
    query, key, value = (paddle.ones([1, 3, 1, 4]) for _ in range(3))
    query[0, 1, 0, 2] = math.nan
    out = attention(query, key, value, impl=impl).numpy()
    assert np.isnan(out[0, :, 0, 0]).tolist() == [False, True, False]


@IMPLS
def test_inputs_that_are_not_contiguous(impl):
    case = everything(dropout_p=0.0)
    expected = run(case, impl)
    leaves, options = tensors_of(case)
    views = {}
    for name, leaf in leaves.items():
        order = [2, 0, 3, 1]
        moved = leaf.detach().transpose(order).contiguous()
        moved.stop_gradient = False
        leaves[name] = moved
        views[name] = moved.transpose(list(np.argsort(order)))
        assert not views[name].is_contiguous()
    options["bias"] = views["bias"]
    options["alibi_slopes"] = options["alibi_slopes"].T.contiguous().T
    options["kv_lengths"] = paddle.stack([options["kv_lengths"]] * 2, axis=1)[:, 0]
    out, lse = attention_with_lse(views["query"], views["key"], views["value"], impl=impl, **options)
    grad_out = tensor(np.repeat(case.grad_out, 2, axis=3))[..., ::2]
    paddle.autograd.backward([out, lse], [grad_out, tensor(case.grad_lse)])
    np.testing.assert_array_equal(out.numpy(), expected["out"])
    for name, leaf in leaves.items():
        np.testing.assert_allclose(
            leaf.grad.transpose(list(np.argsort(order))).numpy(), expected[name], atol=1e-6
        )


@IMPLS
@pytest.mark.parametrize("frozen", ["query", "key", "value", "bias"])
def test_partial_stop_gradient(impl, frozen):
    case = make_case(1, 5, 7, 2, bias=(5, 7))
    expected = run(case, impl)
    leaves, options = tensors_of(case)
    leaves[frozen].stop_gradient = True
    out, lse = attention_with_lse(leaves["query"], leaves["key"], leaves["value"], impl=impl, **options)
    paddle.autograd.backward([out, lse], [tensor(case.grad_out), tensor(case.grad_lse)])
    for name, leaf in leaves.items():
        if name == frozen:
            assert leaf.grad is None
        else:
            np.testing.assert_array_equal(leaf.grad.numpy(), expected[name])


def test_deterministic_changes_nothing_on_the_cpu():
    case = make_case(1, 70, 70, 2)
    expected = run(case, "fused")
    case.options["deterministic"] = True
    for name, value in run(case, "fused").items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("merge", ["fused", "reference"])
def test_parts_of_the_keys_merge_by_their_lse(merge):
    case = make_case(1, 9, 40, 2)
    query, key, value = (tensor(x) for x in (case.query, case.key, case.value))
    parts = [
        attention_with_lse(query, key[:, s], value[:, s], impl=merge) for s in (slice(0, 13), slice(13, 40))
    ]
    weights = paddle.nn.functional.softmax(paddle.stack([lse for _, lse in parts]), axis=0).transpose(
        [0, 1, 3, 2]
    )
    merged = sum(w.unsqueeze(-1) * out for w, (out, _) in zip(weights, parts, strict=True))
    np.testing.assert_allclose(merged.numpy(), gold(case).results["out"], atol=1e-6)
