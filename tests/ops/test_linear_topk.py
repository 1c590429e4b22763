from __future__ import annotations

import re
from itertools import product

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra.ops import explain_dispatch, linear_topk, linear_topk_log_prob
from tests.ops.linear_topk_cases import check, check_random_cases, make_case

IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])


def inputs(rows=4, features=3, classes=9):
    rng = np.random.default_rng(0)
    shapes = (rows, features), (classes, features)
    return [paddle.to_tensor(rng.standard_normal(shape).astype("float32")) for shape in shapes]


@IMPLS
@pytest.mark.parametrize(
    ("rows", "classes", "k"),
    [
        (r, v, k)
        for r, v in product((1, 7, 130), (1, 2, 77, 1000, 5003))
        for k in {1, min(5, v), min(v, 1000)}
    ],
)
def test_against_float64(impl, rows, classes, k):
    check(make_case(rows, 33, classes, k), impl)


@IMPLS
@pytest.mark.parametrize("layout", ["vd", "dv"])
@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("has_bias", [False, True])
def test_options(impl, layout, is_log, softcap, has_bias):
    case = make_case(130, 17, 1100, 7, has_bias=has_bias, softcap=softcap, layout=layout, is_log=is_log)
    check(case, impl)


@pytest.mark.parametrize("layout", ["vd", "dv"])
@pytest.mark.parametrize("rows", [1, 8, 9, 300])
def test_medium_precision_rounds_what_is_multiplied(rows, layout):
    check(make_case(rows, 50, 700, 9, layout=layout, precision="medium", has_bias=True))


def test_logits_of_ten_thousand():
    check(make_case(20, 32, 600, 5, scale=1e4))
    check(make_case(20, 32, 600, 5, scale=1e4, is_log=True))


def test_five_hundred_random_cases():
    check_random_cases(range(500))


@IMPLS
@pytest.mark.parametrize("k", [1, 5, 63, 64, 200, 400])
def test_equal_logits_come_by_class(impl, k):
    rng = np.random.default_rng(k)
    hidden, weight = (rng.integers(-1, 2, (n, 3)).astype("float32") for n in (50, 400))
    _, index = linear_topk(paddle.to_tensor(hidden), paddle.to_tensor(weight), k, impl=impl)
    np.testing.assert_array_equal(index.numpy(), np.argsort(-hidden @ weight.T, 1, kind="stable")[:, :k])


@IMPLS
def test_all_logits_equal_in_many_splits(impl):
    hidden, weight = paddle.ones([3, 4]), paddle.ones([6000, 4])
    prob, index = linear_topk(hidden, weight, 70, impl=impl)
    np.testing.assert_array_equal(index.numpy(), np.tile(np.arange(70), (3, 1)))
    np.testing.assert_allclose(prob.numpy(), 1 / 6000, rtol=1e-6)


@IMPLS
@pytest.mark.parametrize("k", [10, 300, 1024])
def test_impossible_classes_come_last_and_by_number(impl, k):
    hidden, weight = inputs(5, 3, 5000)
    bias = np.full(5000, -np.inf, "float32")
    bias[20::400] = 0.0  # 13 possible ones
    prob, index = linear_topk(hidden, weight, k, bias=paddle.to_tensor(bias), impl=impl)
    logits = hidden.numpy().astype("float64") @ weight.numpy().T.astype("float64") + bias
    np.testing.assert_array_equal(index.numpy(), np.argsort(-logits, 1, kind="stable")[:, :k])
    assert (prob.numpy()[:, :10] > 0).all()
    assert (prob.numpy()[:, 13:] < 1e-38).all()  # Paddle's e^-infinity is 3e-39
    log_prob, _ = linear_topk_log_prob(hidden, weight, k, bias=paddle.to_tensor(bias), impl=impl)
    assert (log_prob.numpy()[:, 13:] == -np.inf).all()


@IMPLS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_without_a_softmax_is_nan_and_others_are_not(impl, value):
    hidden, weight = inputs(6, 3, 5000)
    expected, classes = (x.numpy() for x in linear_topk(hidden, weight, 4, impl=impl))
    expected[2], classes[2] = np.nan, np.arange(4)
    hidden[2, 1] = value
    prob, index = linear_topk(hidden, weight, 4, impl=impl)
    np.testing.assert_array_equal(prob.numpy(), expected)
    np.testing.assert_array_equal(index.numpy(), classes)


@IMPLS
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 700, 4999])
def test_one_undefined_logit_spoils_its_rows(impl, value, column):
    hidden, weight = inputs(6, 3, 5000)
    bias = np.full(5000, -np.inf, "float32")  # hard: the other blocks hold nothing else
    bias[column], bias[1234] = value, 0.0
    prob, index = linear_topk(hidden, weight, 4, bias=paddle.to_tensor(bias), impl=impl)
    assert np.isnan(prob.numpy()).all()
    np.testing.assert_array_equal(index.numpy(), np.tile(np.arange(4), (6, 1)))


@IMPLS
def test_nothing_but_minus_infinity_is_nan(impl):
    hidden, weight = inputs()
    bias = paddle.full([9], -np.inf)
    prob, index = linear_topk(hidden, weight, 9, bias=bias, impl=impl)
    assert np.isnan(prob.numpy()).all()
    np.testing.assert_array_equal(index.numpy(), np.tile(np.arange(9), (4, 1)))


@IMPLS
@pytest.mark.parametrize("shape", [(3,), (2, 5, 3), (0, 3), (2, 0, 3)])
def test_shapes(impl, shape):
    _, weight = inputs()
    prob, index = linear_topk(paddle.ones(shape), weight, 2, impl=impl)
    assert prob.shape == index.shape == [*shape[:-1], 2]
    assert prob.dtype == paddle.float32
    assert index.dtype == paddle.int64


@IMPLS
def test_inputs_that_are_not_contiguous(impl):
    hidden, weight = inputs()
    expected = linear_topk(hidden, weight, 3, impl=impl)
    views = [x.t().contiguous().t() for x in (hidden, weight)]
    for found, wanted in zip(linear_topk(*views, 3, impl=impl), expected, strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted.numpy())


def test_float64_runs_in_plain_paddle():
    hidden, weight = (x.astype("float64") for x in inputs())
    prob, _ = linear_topk(hidden, weight, 2)
    assert prob.dtype == paddle.float64
    assert explain_dispatch("linear_topk", hidden, weight, 2).chosen == "reference"
    with pytest.raises(UnsupportedError, match="the compiled kernel computes in float32, hidden is float64"):
        linear_topk(hidden, weight, 2, impl="fused")


def test_many_classes_wanted_run_in_plain_paddle():
    hidden, weight = inputs(2, 3, 1100)
    prob, _ = linear_topk(hidden, weight, 1100)
    np.testing.assert_allclose(prob.numpy().sum(1), 1.0, rtol=1e-5)
    refusal = "the compiled kernel finds up to 1024 classes, k is 1025"
    assert refusal in str(explain_dispatch("linear_topk_log_prob", hidden, weight, 1025))
    with pytest.raises(UnsupportedError, match=refusal):
        linear_topk(hidden, weight, 1025, impl="fused")


@IMPLS
def test_an_input_that_needs_a_gradient_is_refused(impl):
    for position in range(3):
        tensors = [*inputs(), paddle.zeros([9])]
        tensors[position].stop_gradient = False
        with pytest.raises(UnsupportedError, match=r"linear_topk: expected tensors that need no gradient"):
            linear_topk(*tensors[:2], 2, bias=tensors[2], impl=impl)
        with paddle.no_grad():
            prob, _ = linear_topk(*tensors[:2], 2, bias=tensors[2], impl=impl)
        assert prob.stop_gradient


WRONG = {
    "k": ({"k": 0}, r"k: expected 1 to 9, got 0"),
    "large k": ({"k": 10}, r"k: expected 1 to 9, got 10"),
    "softcap": ({"softcap": -1.0}, r"softcap: expected a finite number in \[0, inf\], got -1"),
    "layout": ({"weight_layout": "oi"}, r"weight_layout: expected one of 'vd', 'dv', got 'oi'"),
    "weight": ({"weight": [9, 4]}, r"weight: expected shape \[9, 3\] \(\[V, D\].*got \[9, 4\]"),
    "dv": ({"weight_layout": "dv"}, r"weight: expected shape \[3, 3\] \(\[D, V\].*got \[9, 3\]"),
    "rank": ({"weight": [9]}, r"weight: expected two dimensions, none of them 0, got \[9\]"),
    "classes": ({"weight": [0, 3]}, r"weight: expected two dimensions, none of them 0, got \[0, 3\]"),
    "hidden": ({"hidden": [4, 0]}, r"hidden: expected shape \[\.\.\., D\] with D at least 1, got \[4, 0\]"),
    "scalar": ({"hidden": []}, r"hidden: expected shape \[\.\.\., D\] with D at least 1, got \[\]"),
    "bias": ({"bias": [8]}, r"bias: expected shape \[9\] \(\[V\]\), got \[8\]"),
    "impl": ({"impl": "fast"}, r"impl: expected one of 'auto', 'fused', 'reference', got 'fast'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_values(name):
    change, message = WRONG[name]
    hidden, weight = inputs()
    arguments = {"hidden": hidden, "weight": weight, "k": 2}
    for key, value in change.items():
        arguments[key] = paddle.zeros(value) if isinstance(value, list) else value
    with pytest.raises(InvalidInputError, match=message):
        linear_topk(**arguments)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden", np.zeros((4, 3)), "hidden: expected a paddle.Tensor, got ndarray"),
        ("hidden", paddle.zeros([4, 3], "int64"), "hidden: expected dtype float32 or float64 .*, got int64"),
        ("weight", paddle.zeros([9, 3], "float64"), "weight: expected dtype float32, got float64"),
        ("bias", paddle.zeros([9], "float64"), "bias: expected dtype float32, got float64"),
        ("k", 2.0, "k: expected an int, got float"),
        ("k", True, "k: expected an int, got bool"),
        ("softcap", paddle.ones([]), "softcap: expected a Python number, got Tensor"),
    ],
)
def test_invalid_types(name, value, message):
    hidden, weight = inputs()
    with pytest.raises(InvalidDtypeError, match=message):
        linear_topk(**{"hidden": hidden, "weight": weight, "k": 2, name: value})


OPERATOR = {"hidden": [4, 3], "weight": [9, 3], "bias": [9], "k": 2, "softcap": 0.0, "precision": 0}
WRONG_OPERATOR = {
    "k": ({"k": 10}, "k: expected 1 to 9, got 10"),
    "weight": ({"weight": [9, 4]}, "weight: expected shape [V, D] with D = 3 and V at least 1, got [9, 4]"),
    "bias": ({"bias": [8]}, "bias: expected shape [9], got [8]"),
    "hidden": ({"hidden": [4, 0]}, "hidden: expected shape [..., D] with D at least 1, got [4, 0]"),
    "softcap": ({"softcap": np.nan}, "softcap: expected 0 or a finite positive number, got nan"),
    "precision": ({"precision": 2}, "precision: expected 0 (highest) or 1 (medium), got 2"),
}


@pytest.mark.parametrize("name", WRONG_OPERATOR)
def test_the_operator_checks_too(name):
    change, message = WRONG_OPERATOR[name]
    given = {**OPERATOR, **change}
    tensors = [paddle.zeros(given[key]) for key in ("hidden", "weight", "bias")]
    attributes = (given["k"], given["softcap"], False, False, given["precision"])
    with pytest.raises(ValueError, match=re.escape(f"linear_topk: {message}")):
        paddle._C_ops._run_custom_op("paddle_infra_linear_topk", *tensors, *attributes)
