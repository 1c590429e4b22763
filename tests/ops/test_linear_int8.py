from __future__ import annotations

import re
from itertools import product

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra.ops import explain_dispatch, linear_int8, quantize_weight
from tests.ops.linear_int8_cases import ACTIVATIONS, Case, check, check_random_cases, make_case, run

IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])


def inputs(rows=4, depth=6, columns=5):
    case = make_case(rows, depth, columns)
    return [paddle.to_tensor(array) for array in (case.x, case.weight, case.scale, case.bias)]


@IMPLS
@pytest.mark.parametrize(
    ("rows", "depth", "columns"), [*product((1, 7, 130, 600), (1, 77, 768), (1, 5, 390, 1000))]
)
def test_sums_are_exact(impl, rows, depth, columns):
    check(make_case(rows, depth, columns, has_bias=False), impl)


@IMPLS
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_options(impl, activation, has_bias):
    check(make_case(130, 50, 77, activation, has_bias), impl)


def test_five_hundred_random_cases():
    check_random_cases(range(500))


def test_fused_equals_plain_bit_for_bit_without_bias_and_activation():
    case = make_case(300, 500, 400, has_bias=False)
    np.testing.assert_array_equal(run(case, "fused"), run(case, "reference"))


def test_ties_go_to_the_even_number():
    # With a largest magnitude of 127 codes are the numbers themselves.
    x = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]], "float32")
    eye = np.eye(8, dtype="int8")
    for impl in ("fused", "reference"):
        y = run(Case(x, eye, np.ones(8, "float32"), None), impl)
        np.testing.assert_array_equal(y, [[127, 0, 2, 2, 0, -2, -2, 126]])


@IMPLS
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums(impl, sign):
    depth = 1 << 17
    x = np.ones((2, depth), "float32")
    x[1] = -1.0
    weight = np.full((depth, 3), 127 * sign, "int8")
    y = run(Case(x, weight, np.ones(3, "float32"), None), impl)
    expected = np.float32(127.0 * 127 * depth * sign) * np.float32(1 / 127)
    np.testing.assert_allclose(y, [[expected] * 3, [-expected] * 3], rtol=1e-6)


def test_a_weight_of_minus_128_is_exact_too():
    check(Case(make_case(9, 40, 50).x, np.full((40, 50), -128, "int8"), np.ones(50, "float32"), None))


@IMPLS
def test_rows_of_zeros_and_of_almost_nothing(impl):
    case = make_case(5, 20, 30)
    case.x[1] = 0.0
    case.x[2] = 1e-31
    case.x[3] = 1e-42  # denormal
    y = run(case, impl)
    np.testing.assert_array_equal(y[1:4], np.tile(case.bias, (3, 1)))
    np.testing.assert_array_equal(y[[0, 4]], run(make_case(5, 20, 30), impl)[[0, 4]])


@IMPLS
def test_rows_of_very_large_and_small_numbers(impl):
    case = make_case(4, 20, 30, has_bias=False)
    for row, factor in enumerate((1e-29, 1e-20, 1e20, 1e37)):
        case.x[row] = np.linspace(-1.0, 1.0, 20, dtype="float32") * np.float32(factor)
    codes = np.rint(np.linspace(-1.0, 1.0, 20, dtype="float32") * np.float32(127))
    top = np.abs(case.x).max(axis=1, keepdims=True).astype("float64")
    gold = (codes @ case.weight.astype("float64")) * top / 127 * case.scale
    np.testing.assert_allclose(run(case, impl), gold, rtol=1e-6)


@IMPLS
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 35])
def test_a_row_that_is_not_finite_is_nan_and_others_are_not(impl, activation, value, column):
    case = make_case(6, 36, 30, activation)
    expected = run(case, impl)
    case.x[2, column] = value
    expected[2] = np.nan
    np.testing.assert_array_equal(run(case, impl), expected)


@IMPLS
@pytest.mark.parametrize("shape", [(6,), (2, 3, 6), (0, 6), (2, 0, 6)])
def test_shapes(impl, shape):
    _, weight, scale, bias = inputs()
    y = linear_int8(paddle.ones(shape), weight, scale, bias=bias, impl=impl)
    assert y.shape == [*shape[:-1], 5]
    assert y.dtype == paddle.float32


@IMPLS
def test_inputs_that_are_not_contiguous(impl):
    x, weight, scale, _ = inputs()
    views = [a.t().contiguous().t() for a in (x, weight)]
    np.testing.assert_array_equal(
        linear_int8(*views, scale, impl=impl).numpy(), linear_int8(x, weight, scale, impl=impl).numpy()
    )


def test_a_row_does_not_depend_on_the_others():
    case = make_case(300, 200, 100, "gelu")
    tensors = [paddle.to_tensor(a) for a in (case.x, case.weight, case.scale)]
    everything = linear_int8(*tensors, activation="gelu", impl="fused").numpy()
    for row in (0, 57, 299):
        alone = linear_int8(tensors[0][row], *tensors[1:], activation="gelu", impl="fused")
        np.testing.assert_array_equal(alone.numpy(), everything[row])


@pytest.mark.parametrize("layout", ["dv", "vd"])
def test_quantized_weights(layout):
    weight = np.random.default_rng(0).standard_normal((40, 30)).astype("float32")
    weight[:, 3] = 0.0
    weight[:, 4] = 1e-35
    weight[:2, 5], weight[2:, 5] = (127.0, 2.5), -0.5
    given = weight if layout == "dv" else np.ascontiguousarray(weight.T)
    codes, scale = (t.numpy() for t in quantize_weight(paddle.to_tensor(given), weight_layout=layout))
    assert codes.dtype == np.int8
    assert codes.shape == (40, 30)
    assert scale.shape == (30,)
    assert not codes[:, 3:5].any()
    np.testing.assert_array_equal(scale[3:6], [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(codes[:3, 5], [127, 2, 0])
    used = [n for n in range(30) if n not in (3, 4)]
    np.testing.assert_array_equal(np.abs(codes.astype("int64")).max(axis=0)[used], 127)
    assert (np.abs(codes * scale - weight)[:, used] <= 0.5001 * scale[used]).all()


def test_quantized_weights_get_no_gradient():
    linear = paddle.nn.Linear(6, 5)
    codes, scale = quantize_weight(linear.weight)
    assert codes.stop_gradient
    assert scale.stop_gradient
    assert not linear.weight.stop_gradient


def test_the_result_is_near_that_of_the_layer_it_stands_for():
    paddle.seed(0)
    linear, x = paddle.nn.Linear(768, 300), paddle.randn([50, 768])
    with paddle.no_grad():
        y = linear_int8(x, *quantize_weight(linear.weight), bias=linear.bias)
        # Two roundings to 1/254 of the largest number, of some 768: about 1 % of a result's usual size.
        assert float((y - linear(x)).std() / linear(x).std()) < 0.02


def test_quantizing_refuses_what_it_cannot_represent():
    for value in (np.nan, np.inf):
        with pytest.raises(
            InvalidInputError, match="weight: expected finite numbers, got a NaN or an infinity"
        ):
            quantize_weight(paddle.full([2, 3], value))
    with pytest.raises(
        InvalidInputError, match=r"weight: expected two dimensions, none of them 0, got \[3\]"
    ):
        quantize_weight(paddle.ones([3]))
    with pytest.raises(InvalidInputError, match=r"weight_layout: expected one of 'vd', 'dv', got 'nk'"):
        quantize_weight(paddle.ones([2, 3]), weight_layout="nk")
    with pytest.raises(InvalidDtypeError, match="weight: expected dtype float32, got float64"):
        quantize_weight(paddle.ones([2, 3], "float64"))


def test_long_rows_run_in_plain_paddle():
    tensors = paddle.ones([1, (1 << 17) + 1]), paddle.ones([(1 << 17) + 1, 1], "int8"), paddle.ones([1])
    refusal = "the compiled kernel takes up to 131072 features, x has 131073"
    assert refusal in str(explain_dispatch("linear_int8", *tensors))
    assert float(linear_int8(*tensors)[0, 0]) == pytest.approx(131073, rel=1e-6)
    with pytest.raises(UnsupportedError, match=refusal):
        linear_int8(*tensors, impl="fused")


@IMPLS
def test_an_input_that_needs_a_gradient_is_refused(impl):
    for position in (0, 2, 3):
        tensors = inputs()
        tensors[position].stop_gradient = False
        with pytest.raises(UnsupportedError, match="linear_int8: expected tensors that need no gradient"):
            linear_int8(*tensors[:3], bias=tensors[3], impl=impl)
        with paddle.no_grad():
            assert linear_int8(*tensors[:3], bias=tensors[3], impl=impl).stop_gradient


WRONG = {
    "weight": ({"weight_int8": [7, 5]}, r"weight_int8: expected shape \[6, 5\] \(\[K, N\]\), got \[7, 5\]"),
    "rank": ({"weight_int8": [6]}, r"weight_int8: expected two dimensions, none of them 0, got \[6\]"),
    "scale": ({"weight_scale": [6]}, r"weight_scale: expected shape \[5\] \(\[N\]\), got \[6\]"),
    "bias": ({"bias": [6]}, r"bias: expected shape \[5\] \(\[N\]\), got \[6\]"),
    "x": ({"x": [4, 0]}, r"x: expected shape \[\.\.\., K\] with K at least 1, got \[4, 0\]"),
    "activation": (
        {"activation": "tanh"},
        r"activation: expected one of 'none', 'gelu', 'gelu_tanh', 'relu', 'silu', got 'tanh'",
    ),
    "impl": ({"impl": "fast"}, r"impl: expected one of 'auto', 'fused', 'reference', got 'fast'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_values(name):
    change, message = WRONG[name]
    arguments = dict(zip(("x", "weight_int8", "weight_scale", "bias"), inputs(), strict=True))
    for key, value in change.items():
        dtype = "int8" if key == "weight_int8" else "float32"
        arguments[key] = paddle.zeros(value, dtype) if isinstance(value, list) else value
    with pytest.raises(InvalidInputError, match=message):
        linear_int8(**arguments)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", np.zeros((4, 6)), "x: expected a paddle.Tensor, got ndarray"),
        ("x", paddle.zeros([4, 6], "float64"), "x: expected dtype float32, got float64"),
        ("weight_int8", paddle.zeros([6, 5]), "weight_int8: expected dtype int8, got float32"),
        ("weight_scale", paddle.zeros([5], "float64"), "weight_scale: expected dtype float32, got float64"),
        ("bias", paddle.zeros([5], "float64"), "bias: expected dtype float32, got float64"),
    ],
)
def test_invalid_types(name, value, message):
    arguments = dict(zip(("x", "weight_int8", "weight_scale", "bias"), inputs(), strict=True))
    with pytest.raises(InvalidDtypeError, match=message):
        linear_int8(**{**arguments, name: value})


WRONG_OPERATOR = {
    "weight": ({"weight": [7, 5]}, "weight: expected shape [K, N] with K = 6 and N at least 1, got [7, 5]"),
    "scale": ({"scale": [6]}, "weight_scale: expected shape [5], got [6]"),
    "bias": ({"bias": [6]}, "bias: expected shape [5], got [6]"),
    "activation": ({"activation": 5}, "activation: expected 0 to 4, got 5"),
    "x": ({"x": [4, 0]}, "x: expected shape [..., K] with K at least 1, got [4, 0]"),
}


@pytest.mark.parametrize("name", WRONG_OPERATOR)
def test_the_operator_checks_too(name):
    change, message = WRONG_OPERATOR[name]
    given = {"x": [4, 6], "weight": [6, 5], "scale": [5], "bias": [5], "activation": 0, **change}
    x, scale, bias = (paddle.zeros(given[key]) for key in ("x", "scale", "bias"))
    weight = paddle.zeros(given["weight"], "int8")
    with pytest.raises(ValueError, match=re.escape(f"linear_int8: {message}")):
        paddle._C_ops._run_custom_op("paddle_infra_linear_int8", x, weight, scale, bias, given["activation"])
