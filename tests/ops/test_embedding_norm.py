from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra._core.tolerances import largest_error
from paddle_infra.nn import TransformerEmbedding
from paddle_infra.ops import add_norm, embedding_norm, explain_dispatch
from tests.ops.embedding_norm_cases import (
    EVERYTHING,
    LEAVES,
    check,
    check_random_cases,
    gold,
    make_case,
    run,
)

IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])
NORMS = pytest.mark.parametrize("norm", ["layer", "rms"])


@NORMS
@pytest.mark.parametrize("size", [1, 3, 17, 384, 768, 1023])
@pytest.mark.parametrize(("batch", "length"), [(0, 4), (3, 0), (1, 1), (1, 7), (8, 125)])
def test_shapes(batch, length, size, norm):
    check(make_case(batch, length, size, norm=norm, epsilon=1e-5))


@pytest.mark.parametrize("position", [False, True])
@pytest.mark.parametrize("token_type", [False, True])
@pytest.mark.parametrize(("weight", "bias"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_every_combination_of_what_is_there(position, token_type, weight, bias, dropout_p):
    options = {"position": position, "token_type": token_type, "weight": weight, "bias": bias}
    check(make_case(3, 11, 37, dropout_p=dropout_p, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"position_ids": (4, 9)},
        {"position_ids": (1, 9)},
        {"position_ids": (9,)},
        {"token_type_ids": (4, 9)},
        {"token_type_ids": (9,)},
        {"padding_idx": 0},
        {"padding_idx": 22},
        {"epsilon": 0.0},
        {"epsilon": 0.5},
        {"dropout_p": 0.9, "training": False},
    ],
    ids=str,
)
def test_other_options(options):
    check(make_case(4, 9, 50, **options))


def test_everything_at_once():
    check(make_case(5, 37, 133, **EVERYTHING))


def test_random_combinations():
    check_random_cases(range(1000))


def test_many_tokens_of_one_word():
    check(make_case(8, 500, 48, words=1))


@NORMS
def test_float64_runs_in_plain_paddle_to_float64_accuracy(norm):
    case = make_case(2, 7, 21, norm=norm, dropout_p=0.2, padding_idx=3, token_type_ids=(2, 7))
    (true, _), found = gold(case), run(case, "auto", dtype="float64")
    for name, value in found.items():
        assert value.dtype == np.float64
        assert largest_error(value, true[name]) <= 1e-12 * np.abs(true[name]).max(), name


def test_gold_is_pinned_by_finite_differences():
    case = make_case(2, 3, 4, words=5, dropout_p=0.3, padding_idx=2, token_type_ids=(3,), epsilon=1e-5)
    true, _ = gold(case)
    for name in LEAVES:
        values = getattr(case, name).astype("float64")
        setattr(case, name, values)
        for index in np.ndindex(values.shape):
            kept, around = values[index], []
            for step in (1e-5, -1e-5):
                values[index] = kept + step
                around.append((gold(case)[0]["out"] * case.grad_out).sum())
            values[index] = kept
            if name != "word" or index[0] != 2:
                assert (around[0] - around[1]) / 2e-5 == pytest.approx(true[name][index], abs=1e-8)
    assert not true["word"][2].any()


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_it_is_the_models_embedding(impl):
    paddle.seed(4)
    layer = TransformerEmbedding(30, 24, 12, 2, dropout=0.0)
    ids, types = paddle.randint(0, 30, [3, 10]), paddle.randint(0, 2, [3, 10])
    parameters = (layer.word.weight, layer.position.weight, layer.token_type.weight, layer.norm.weight)
    for given in (None, types):
        out = embedding_norm(ids, *parameters, layer.norm.bias, token_type_ids=given, impl=impl)
        np.testing.assert_allclose(out.numpy(), layer(ids, given).numpy(), atol=2e-6)


@IMPLS
def test_padding_is_read_but_gets_no_gradient(impl):
    case = make_case(3, 20, 12, words=4)
    plain = run(case, impl)
    case.options["padding_idx"] = 1
    found = run(case, impl)
    np.testing.assert_array_equal(found["out"], plain["out"])
    assert not found["word"][1].any()
    for name in LEAVES:
        kept = np.delete(found[name], 1, axis=0) if name == "word" else found[name]
        np.testing.assert_array_equal(
            kept, np.delete(plain[name], 1, axis=0) if name == "word" else plain[name]
        )


def test_both_implementations_drop_the_same_as_add_norm():
    word, ids = paddle.ones([3, 301]), paddle.zeros([4, 50], "int64")
    bias = paddle.ones([301])
    kept = []
    for impl in ("fused", "reference"):
        paddle.seed(7)
        out = embedding_norm(ids, word, weight=paddle.ones([301]), bias=bias, dropout_p=0.3, impl=impl)
        kept.append(out.numpy().reshape(200, 301) > 0.0)
    np.testing.assert_array_equal(kept[0], kept[1])
    paddle.seed(7)
    dropped = add_norm(paddle.ones([200, 301]), weight=bias, norm="rms", dropout_p=0.3)
    np.testing.assert_array_equal(kept[0], dropped.numpy() > 0.0)
    assert kept[0].mean() == pytest.approx(0.7, abs=0.01)


@IMPLS
def test_nan_is_not_hidden(impl):
    case = make_case(2, 6, 20)
    case.ids[:] = 3
    case.ids[1, 2] = 5
    case.word[5, 7] = np.nan
    found = run(case, impl)
    is_nan = np.isnan(found["out"]).any(axis=2)
    assert is_nan.sum() == 1
    assert is_nan[1, 2]
    assert np.isnan(found["word"]).any(axis=1).nonzero()[0].tolist() == [5]
    assert np.isnan(found["position"]).any(axis=1).nonzero()[0].tolist() == [2]
    assert np.isnan(found["token_type"]).any(axis=1).nonzero()[0].tolist() == [0]


@IMPLS
def test_int32_indices_are_converted(impl):
    case = make_case(2, 5, 8, position_ids=(2, 5), token_type_ids=(5,))
    wide = run(case, impl)
    for name in ("ids", "position_ids", "token_type_ids"):
        setattr(case, name, getattr(case, name).astype("int32"))
    for name, value in run(case, impl).items():
        np.testing.assert_array_equal(value, wide[name])


@IMPLS
def test_non_contiguous_inputs(impl):
    case = make_case(4, 6, 10, token_type_ids=(4, 6))
    expected = run(case, impl)
    word = paddle.to_tensor(np.ascontiguousarray(case.word.T), stop_gradient=False)
    position = paddle.to_tensor(np.repeat(case.position, 2, axis=0), stop_gradient=False)
    ids = paddle.to_tensor(np.ascontiguousarray(case.ids.T)).T
    assert not word.T.is_contiguous()
    assert not ids.is_contiguous()
    out = embedding_norm(
        ids,
        word.T,
        position[::2],
        *(paddle.to_tensor(getattr(case, name)) for name in ("token_type", "weight", "bias")),
        token_type_ids=paddle.to_tensor(np.repeat(case.token_type_ids, 2, axis=1))[:, ::2],
        impl=impl,
    )
    out.backward(paddle.to_tensor(case.grad_out))
    np.testing.assert_array_equal(out.numpy(), expected["out"])
    np.testing.assert_allclose(word.grad.numpy().T, expected["word"], atol=1e-6)
    np.testing.assert_allclose(position.grad.numpy()[::2], expected["position"], atol=1e-6)


@IMPLS
@pytest.mark.parametrize("frozen", LEAVES)
def test_partial_stop_gradient(impl, frozen):
    case = make_case(2, 5, 6)
    expected = run(case, impl)
    leaves = {name: paddle.to_tensor(getattr(case, name), stop_gradient=name == frozen) for name in LEAVES}
    embedding_norm(paddle.to_tensor(case.ids), **leaves, impl=impl).backward(paddle.to_tensor(case.grad_out))
    for name, leaf in leaves.items():
        if name == frozen:
            assert leaf.grad is None
        else:
            np.testing.assert_allclose(leaf.grad.numpy(), expected[name], atol=1e-6)


def changed(value, *place):
    """Zeros of [2, 3] with one other number."""
    index = np.zeros((2, 3), "int64")
    index[place] = value
    return paddle.to_tensor(index)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"ids": changed(9, 1, 2)}, InvalidInputError, r"ids\[1, 2\]: expected a number in \[0, 9\), got 9"),
        (
            {"ids": changed(-1, 0, 1)},
            InvalidInputError,
            r"ids\[0, 1\]: expected a number in \[0, 9\), got -1",
        ),
        (
            {"position_ids": changed(5, 1, 0)},
            InvalidInputError,
            r"position_ids\[1, 0\]: expected a number in \[0, 5\), got 5",
        ),
        (
            {"position_ids": changed(5, 1, 0)[1]},
            InvalidInputError,
            r"position_ids\[0\]: expected a number in \[0, 5\), got 5",
        ),
        (
            {"token_type_ids": changed(2, 0, 2)},
            InvalidInputError,
            r"token_type_ids\[0, 2\]: expected a number in \[0, 2\), got 2",
        ),
        (
            {"position": paddle.ones([2, 4])},
            InvalidInputError,
            "position: expected at least 3 rows, a position for each token, got 2",
        ),
        (
            {"ids": paddle.zeros([3], "int64")},
            InvalidInputError,
            r"ids: expected shape \[batch_size, seq_len\], got",
        ),
        ({"ids": paddle.zeros([2, 3])}, InvalidDtypeError, "ids: expected dtype int64 or int32, got float32"),
        (
            {"position_ids": paddle.zeros([2, 4], "int64")},
            InvalidInputError,
            r"position_ids: expected shape \[2, 3\] .* got \[2, 4\]",
        ),
        (
            {"token_type_ids": paddle.zeros([4], "int64")},
            InvalidInputError,
            r"token_type_ids: expected shape \[3\] .* got \[4\]",
        ),
        (
            {"position_ids": paddle.zeros([3], "int64"), "position": None},
            InvalidInputError,
            "position_ids: expected None, because position is None, got a tensor",
        ),
        (
            {"word": paddle.ones([4])},
            InvalidInputError,
            r"word: expected shape \[V, D\], none of them 0, got \[4\]",
        ),
        ({"word": paddle.ones([9, 4], "int32")}, InvalidDtypeError, "word: expected dtype float32 or"),
        (
            {"token_type": paddle.ones([2, 5])},
            InvalidInputError,
            r"token_type: expected shape \[-1, 4\] .* got \[2, 5\]",
        ),
        (
            {"token_type": paddle.ones([2, 4], "float64")},
            InvalidDtypeError,
            "token_type: expected dtype float32",
        ),
        (
            {"weight": paddle.ones([3])},
            InvalidInputError,
            r"weight: expected shape \[4\] \(\[D\]\), got \[3\]",
        ),
        ({"bias": 0.0}, InvalidDtypeError, "bias: expected a paddle.Tensor, got float"),
        (
            {"padding_idx": 9},
            InvalidInputError,
            r"padding_idx: expected None or a number in \[0, 9\), got 9",
        ),
        ({"padding_idx": -1}, InvalidInputError, "padding_idx: expected None or a number in .* got -1"),
        ({"padding_idx": 1.0}, InvalidDtypeError, "padding_idx: expected an int, got float"),
        ({"norm": None}, InvalidInputError, "norm: expected one of 'layer', 'rms', got None"),
        ({"epsilon": float("nan")}, InvalidInputError, "epsilon: expected a finite number"),
        ({"dropout_p": 1}, InvalidInputError, r"dropout_p: expected a probability in \[0, 1\), got 1"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_errors(changes, error, text):
    arguments = {
        "ids": paddle.zeros([2, 3], "int64"),
        "word": paddle.ones([9, 4]),
        "position": paddle.ones([5, 4]),
        "token_type": paddle.ones([2, 4]),
        "weight": paddle.ones([4]),
        "bias": paddle.ones([4]),
    }
    with pytest.raises(error, match=text):
        embedding_norm(**{**arguments, **changes})


def test_dispatch():
    ids, word = paddle.zeros([2, 3], "int64"), paddle.ones([4, 5])
    assert explain_dispatch("embedding_norm", ids, word).chosen == "fused"
    plain = explain_dispatch("embedding_norm", ids, word.astype("float64"))
    assert plain.chosen == "reference"
    assert "the compiled kernel computes in float32, word is float64" in str(plain)
    with pytest.raises(UnsupportedError, match=r"(?s)word is bfloat16.*Paddle has no bfloat16 addition"):
        embedding_norm(ids, word.astype("bfloat16"))
