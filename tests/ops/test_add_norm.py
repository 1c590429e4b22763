from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra._core.tolerances import largest_error
from paddle_infra.ops import add_norm, add_norm_with_sum, explain_dispatch
from tests.ops.add_norm_cases import EVERYTHING, check, check_random_cases, gold, make_case, run

IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])
NORMS = pytest.mark.parametrize("norm", ["layer", "rms"])


@NORMS
@pytest.mark.parametrize("size", [1, 3, 17, 384, 768, 1023, 5000])
@pytest.mark.parametrize("rows", [0, 1, 7, 1000])
def test_shapes(rows, size, norm):
    check(make_case(min(rows, 2_000_000 // size), size, norm=norm))


@NORMS
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("weight", "bias"), [(False, False), (False, True), (True, False), (True, True)])
def test_every_combination_of_what_is_there(norm, dropout_p, with_sum, residual, weight, bias):
    options = {"residual": residual, "weight": weight, "bias": bias, "with_sum": with_sum}
    check(make_case(13, 37, norm=norm, dropout_p=dropout_p, **options))


@pytest.mark.parametrize(
    "options", [{"epsilon": 0.5}, {"epsilon": 0.0}, {"dropout_p": 0.9, "training": False}]
)
def test_other_options(options):
    check(make_case(20, 50, **options))


def test_everything_at_once():
    check(make_case(301, 133, **EVERYTHING))


def test_random_combinations():
    check_random_cases(range(1000))


@NORMS
@pytest.mark.parametrize("size", [7, 768])
def test_a_large_mean_costs_no_accuracy(norm, size):
    # Exact inputs with mean 1e4 and standard deviation 1: a mean or a variance in float32 would be off by 1e-4.
    case = make_case(50, size, mean=1e4, residual=False, norm=norm)
    (true, _), fused = gold(case), run(case, "fused")
    for name in ("out", "hidden", "weight", "bias"):
        assert largest_error(fused[name], true[name]) <= 1e-6 * np.abs(true[name]).max(), name


def test_a_residual_with_a_large_mean():
    check(make_case(50, 384, mean=1e4, with_sum=True))


@IMPLS
@NORMS
def test_float64_runs_in_plain_paddle_to_float64_accuracy(impl, norm):
    case = make_case(9, 21, norm=norm, with_sum=True, dropout_p=0.2)
    (true, _), found = gold(case), run(case, "auto" if impl == "fused" else impl, dtype="float64")
    for name, value in found.items():
        assert value.dtype == np.float64
        assert largest_error(value, true[name]) <= 1e-12 * np.abs(true[name]).max(), name


def test_gold_is_pinned_by_finite_differences():
    for norm in ("layer", "rms"):
        case = make_case(3, 5, norm=norm, dropout_p=0.3, with_sum=True)
        true, _ = gold(case)
        for name in ("hidden", "residual", "weight", "bias"):
            values = getattr(case, name).astype("float64")
            setattr(case, name, values)
            for index in np.ndindex(values.shape):
                kept, around = values[index], []
                for step in (1e-5, -1e-5):
                    values[index] = kept + step
                    found, _ = gold(case)
                    around.append((found["out"] * case.grad_out + found["sum"] * case.grad_sum).sum())
                values[index] = kept
                assert (around[0] - around[1]) / 2e-5 == pytest.approx(true[name][index], abs=1e-8)


@IMPLS
def test_by_hand(impl):
    # Mean 3, variance 4; mean square 13.
    hidden, residual = paddle.to_tensor([[1.0, 2.0]]), paddle.to_tensor([[0.0, 3.0]])
    weight, bias = paddle.to_tensor([2.0, 3.0]), paddle.to_tensor([0.5, -1.0])
    out, total = add_norm_with_sum(hidden, residual, weight, bias, epsilon=0.0, impl=impl)
    np.testing.assert_allclose(out.numpy(), [[-1.5, 2.0]], rtol=1e-6)
    assert total.numpy().tolist() == [[1.0, 5.0]]
    out = add_norm(hidden, residual, weight, norm="rms", epsilon=12.0, impl=impl)
    np.testing.assert_allclose(out.numpy(), [[0.4, 3.0]], rtol=1e-6)


@IMPLS
@pytest.mark.parametrize("shape", [[6], [2, 6], [2, 3, 6], [2, 0, 6], [1, 2, 1, 6]])
def test_any_leading_shape(impl, shape):
    hidden, residual, weight = paddle.randn(shape), paddle.randn(shape), paddle.rand([6])
    hidden.stop_gradient = residual.stop_gradient = weight.stop_gradient = False
    out, total = add_norm_with_sum(hidden, residual, weight, impl=impl)
    assert out.shape == total.shape == shape
    out.sum().backward()
    assert hidden.grad.shape == residual.grad.shape == shape
    flat = add_norm(hidden.reshape([-1, 6]), residual.reshape([-1, 6]), weight, impl=impl)
    np.testing.assert_allclose(out.numpy().reshape(-1, 6), flat.numpy(), atol=1e-6)


@NORMS
def test_a_constant_row_gives_the_bias(norm):
    constant = 0.1 if norm == "layer" else 0.0
    hidden = paddle.full([3, 37], constant)
    bias = paddle.randn([37])
    out = add_norm(hidden, None, paddle.ones([37]), bias, norm=norm, epsilon=1e-12, impl="fused")
    np.testing.assert_array_equal(out.numpy(), np.tile(bias.numpy(), (3, 1)))


@IMPLS
@NORMS
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_nan_and_infinity_are_not_hidden(impl, norm, bad, dropout_p):
    case = make_case(5, 33, norm=norm, dropout_p=dropout_p)
    case.residual[2, 7] = bad
    found = run(case, impl)
    is_nan = np.isnan(found["out"])
    assert is_nan[2].any()
    assert np.isnan(found["residual"][2]).any()
    for name in ("out", "hidden", "residual"):
        assert not np.isnan(np.delete(found[name], 2, axis=0)).any()
    assert np.isnan(found["weight"]).any()


@IMPLS
def test_non_contiguous_inputs(impl):
    case = make_case(23, 18, with_sum=True, dropout_p=0.2)
    expected = run(case, impl)
    paddle.seed(0)
    hidden = paddle.to_tensor(np.ascontiguousarray(case.hidden.T), stop_gradient=False)
    residual = paddle.to_tensor(np.repeat(case.residual, 2, axis=0), stop_gradient=False)
    weight = paddle.to_tensor(np.repeat(case.weight, 3), stop_gradient=False)
    assert not hidden.T.is_contiguous()
    out, total = add_norm_with_sum(
        hidden.T, residual[::2], weight[::3], paddle.to_tensor(case.bias), dropout_p=0.2, impl=impl
    )
    grad_sum = paddle.to_tensor(np.ascontiguousarray(case.grad_sum.T)).T
    paddle.autograd.backward([out, total], [paddle.to_tensor(case.grad_out), grad_sum])
    np.testing.assert_array_equal(out.numpy(), expected["out"])
    np.testing.assert_array_equal(total.numpy(), expected["sum"])
    np.testing.assert_allclose(hidden.grad.numpy().T, expected["hidden"], atol=1e-6)
    np.testing.assert_allclose(residual.grad.numpy()[::2], expected["residual"], atol=1e-6)
    np.testing.assert_allclose(weight.grad.numpy()[::3], expected["weight"], atol=1e-5)


@IMPLS
@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("frozen", [0, 1, 2, 3])
def test_partial_stop_gradient(impl, with_sum, frozen):
    paddle.seed(1)
    tensors = [paddle.randn([4, 6]), paddle.randn([4, 6]), paddle.rand([6]), paddle.randn([6])]

    def gradients():
        if with_sum:
            out, total = add_norm_with_sum(*tensors, impl=impl)
            ((out**2).sum() + total.sum()).backward()
        else:
            (add_norm(*tensors, impl=impl) ** 2).sum().backward()
        found = [None if tensor.grad is None else tensor.grad.numpy() for tensor in tensors]
        for tensor in tensors:
            tensor.clear_gradient(False)
        return found

    for tensor in tensors:
        tensor.stop_gradient = False
    expected = gradients()
    tensors[frozen].stop_gradient = True
    for i, (found, wanted) in enumerate(zip(gradients(), expected, strict=True)):
        if i == frozen:
            assert found is None
        else:
            np.testing.assert_array_equal(found, wanted)


@IMPLS
@pytest.mark.parametrize("used", ["out", "sum"])
def test_gradients_when_only_one_result_is_used(impl, used):
    case = make_case(6, 9, with_sum=True)
    case.grad_sum[:] = 0.0 if used == "out" else case.grad_sum
    if used == "sum":
        case.grad_out[:] = 0.0
    true, _ = gold(case)
    leaves = [
        paddle.to_tensor(getattr(case, name), stop_gradient=False)
        for name in ("hidden", "residual", "weight")
    ]
    out, total = add_norm_with_sum(*leaves, paddle.to_tensor(case.bias), impl=impl)
    upstream = case.grad_out if used == "out" else case.grad_sum
    ((out if used == "out" else total) * paddle.to_tensor(upstream)).sum().backward()
    for leaf, name in zip(leaves, ("hidden", "residual", "weight"), strict=True):
        if leaf.grad is not None:
            np.testing.assert_allclose(leaf.grad.numpy(), true[name], atol=2e-6)
    assert leaves[0].grad is not None


def test_both_implementations_drop_the_same_and_about_the_right_share():
    hidden = paddle.ones([200, 301])
    for dropout_p in (0.1, 0.5, 0.9):
        kept = []
        for impl in ("fused", "reference"):
            paddle.seed(7)
            _, total = add_norm_with_sum(hidden, paddle.zeros_like(hidden), dropout_p=dropout_p, impl=impl)
            kept.append(total.numpy())
        np.testing.assert_array_equal(kept[0] > 0.0, kept[1] > 0.0)
        np.testing.assert_allclose(kept[0], kept[1], rtol=1e-6)
        assert np.mean(kept[0] > 0.0) == pytest.approx(1.0 - dropout_p, abs=0.01)
        assert kept[0].max() == pytest.approx(1.0 / (1.0 - dropout_p), rel=1e-6)
        # Rows and columns differ.
        assert len({row.tobytes() for row in kept[0] > 0.0}) == 200


@IMPLS
def test_without_residual_and_dropout_the_sum_is_hidden(impl):
    hidden = paddle.randn([3, 5])
    hidden.stop_gradient = False
    out, total = add_norm_with_sum(hidden, impl=impl)
    np.testing.assert_array_equal(total.numpy(), hidden.numpy())
    np.testing.assert_array_equal(out.numpy(), add_norm(hidden, impl=impl).numpy())


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"hidden": 3}, InvalidDtypeError, "hidden: expected a paddle.Tensor, got int"),
        ({"hidden": paddle.ones([2, 4], "int64")}, InvalidDtypeError, "hidden: expected dtype float32 or"),
        ({"hidden": paddle.ones([])}, InvalidInputError, r"hidden: expected shape \[..., D\] .* got \[\]"),
        ({"hidden": paddle.ones([2, 0])}, InvalidInputError, r"hidden: .* D at least 1, got \[2, 0\]"),
        (
            {"residual": paddle.ones([1, 4])},
            InvalidInputError,
            r"residual: expected shape \[2, 4\] \(shape of hidden\), got \[1, 4\]",
        ),
        (
            {"residual": paddle.ones([2, 4], "float64")},
            InvalidDtypeError,
            "residual: expected dtype float32, got",
        ),
        ({"residual": 1.0}, InvalidDtypeError, "residual: expected a paddle.Tensor, got float"),
        (
            {"weight": paddle.ones([3])},
            InvalidInputError,
            r"weight: expected shape \[4\] \(\[D\]\), got \[3\]",
        ),
        (
            {"bias": paddle.ones([1, 4])},
            InvalidInputError,
            r"bias: expected shape \[4\] \(\[D\]\), got \[1, 4\]",
        ),
        (
            {"bias": paddle.ones([4], "float64")},
            InvalidDtypeError,
            "bias: expected dtype float32, got float64",
        ),
        ({"norm": "batch"}, InvalidInputError, "norm: expected one of 'layer', 'rms', got 'batch'"),
        ({"epsilon": -1e-5}, InvalidInputError, "epsilon: expected a finite number in"),
        ({"epsilon": None}, InvalidDtypeError, "epsilon: expected a Python number, got NoneType"),
        ({"dropout_p": 1.0}, InvalidInputError, r"dropout_p: expected a probability in \[0, 1\), got 1.0"),
        ({"dropout_p": -0.1}, InvalidInputError, r"dropout_p: expected a probability in \[0, 1\), got -0.1"),
        ({"training": 1}, InvalidDtypeError, "training: expected True or False, got int"),
        ({"impl": "gpu"}, InvalidInputError, "impl: expected one of 'auto', 'fused', 'reference', got 'gpu'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
@pytest.mark.parametrize("operator", [add_norm, add_norm_with_sum])
def test_errors(operator, changes, error, text):
    arguments = {
        "hidden": paddle.ones([2, 4]),
        "residual": paddle.ones([2, 4]),
        "weight": paddle.ones([4]),
        "bias": paddle.ones([4]),
    }
    with pytest.raises(error, match=text):
        operator(**{**arguments, **changes})


def test_dispatch():
    hidden = paddle.randn([2, 4])
    assert explain_dispatch("add_norm", hidden).chosen == "fused"
    assert explain_dispatch("add_norm_with_sum", hidden, hidden).chosen == "fused"
    plain = explain_dispatch("add_norm", hidden.astype("float64"))
    assert plain.chosen == "reference"
    assert "the compiled kernel computes in float32, hidden is float64" in str(plain)
    with pytest.raises(
        UnsupportedError, match=r"(?s)computes in float32, hidden is float16.*no float16 addition"
    ):
        add_norm(hidden.astype("float16"))
