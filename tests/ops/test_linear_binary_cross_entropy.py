from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra._core.tolerances import largest_error
from paddle_infra.ops import explain_dispatch, linear_binary_cross_entropy
from tests.ops.fresh_process import INSTRUCTION_SETS, python_with_isa
from tests.ops.head_cases import BORDERS
from tests.ops.head_fuzz import random_shape_and_options
from tests.ops.linear_binary_cross_entropy_cases import (
    EVERYTHING,
    Case,
    check,
    check_medium,
    gold,
    make_case,
    run,
)

IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])
OPTIONS = [
    {},
    {"soft": True},
    {"bias": False},
    {"class_weight": True},
    {"class_weight": True, "soft": True},
    {"token_weight": True},
    {"softcap": 3.0},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"weight_layout": "dv"},
    EVERYTHING,
    {**EVERYTHING, "bias": False, "weight_layout": "vd", "reduction": "mean"},
]


def inputs(rows=4, features=3, classes=5):
    paddle.seed(1)
    tensors = paddle.randn([rows, features]), paddle.randn([classes, features]), paddle.rand([rows, classes])
    for tensor in tensors[:2]:
        tensor.stop_gradient = False
    return tensors


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(77, 50, 11), (77, 50, 301), (70, 20, 2100)], ids=str)
def test_options(options, shape):
    check(make_case(*shape, **options))


@pytest.mark.parametrize("classes", [1, *BORDERS])
@pytest.mark.parametrize("rows", [1, 130, 300])
@pytest.mark.parametrize("everything", [False, True])
def test_every_mode_at_its_borders(classes, rows, everything):
    check(make_case(rows, 33, classes, **(EVERYTHING if everything else {})))


@pytest.mark.parametrize("classes", [classes for classes in BORDERS if classes > 16])
def test_medium_precision_is_exact_for_rounded_factors(classes):
    check_medium(make_case(130, 33, classes, soft=True))


def test_random_combinations():
    for seed in range(600):
        shape, options = random_shape_and_options(seed, "binary")
        check(make_case(*shape, **options), factor=2.0)  # 2: see test_linear_cross_entropy_accuracy.py


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_large_random_logits(scale):
    # Rounding the logits dominates both errors: either may happen to be the larger one.
    check(make_case(97, 64, 311, scale=scale, soft=True), factor=2.0)


@IMPLS
def test_large_exact_logits_lose_nothing(impl):
    logits = np.array([[1e4, -1e4, 1e4, -1e4, 0.0, 1e-3, -30.0]], "float32")
    target = np.array([[1.0, 0.0, 0.0, 1.0, 0.25, 1.0, 0.0]], "float32")
    case = Case(np.ones((1, 1), "float32"), logits.T.copy(), target, options={"reduction": "none"})
    truth, found = gold(case), run(case, impl)
    # Paddle's log_sigmoid loses what is far below 1: log(1 + e^-30).
    tolerance = 3e-7 if impl == "fused" else 1e-6
    for name in ("loss", "weight"):
        np.testing.assert_allclose(
            found[name], truth[name], rtol=tolerance, atol=0 if impl == "fused" else 1e-7
        )


@IMPLS
def test_logits_of_0(impl):
    # Where the absolute value has no slope, and every network with zero weights starts.
    case = Case(np.ones((2, 3), "float32"), np.zeros((4, 3), "float32"), np.eye(2, 4, dtype="float32"))
    truth, found = gold(case), run(case, impl)
    assert float(found["loss"]) == pytest.approx(np.log(2.0), rel=1e-6)
    np.testing.assert_allclose(found["weight"], truth["weight"], rtol=1e-6)


@IMPLS
def test_pinned_by_hand(impl):
    # Logit log 3: sigmoid = 3/4. Positive with weight 2: -2 log(3/4); negative: -log(1/4).
    hidden, weight = paddle.to_tensor([[1.0]]), paddle.full([2, 1], float(np.log(3.0)))
    loss = linear_binary_cross_entropy(
        hidden,
        weight,
        paddle.to_tensor([[1.0, 0.0]]),
        pos_weight=paddle.to_tensor([2.0, 5.0]),
        reduction="none",
        impl=impl,
    )
    np.testing.assert_allclose(loss.numpy(), [[2 * np.log(4 / 3), np.log(4)]], rtol=1e-6)


@IMPLS
def test_equals_paddle(impl):
    hidden, weight, target = inputs(6, 8, 5)
    pos_weight = paddle.rand([5]) + 0.5
    found = linear_binary_cross_entropy(hidden, weight, target, pos_weight=pos_weight, impl=impl)
    logits = paddle.matmul(hidden, weight, transpose_y=True)
    expected = paddle.nn.functional.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_gold_is_pinned_by_finite_differences():
    case = make_case(6, 4, 5, **{**EVERYTHING, "reduction": "mean", "weight_layout": "vd"})
    truth = gold(case)
    for name in ("hidden", "weight", "bias"):
        values = getattr(case, name).astype("float64")
        setattr(case, name, values)
        for index in np.ndindex(values.shape):
            kept = values[index]
            around = []
            for step in (1e-5, -1e-5):
                values[index] = kept + step
                around.append(gold(case)["loss"])
            values[index] = kept
            assert (around[0] - around[1]) / 2e-5 == pytest.approx(truth[name][index], abs=1e-9)


@IMPLS
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_to_average(impl, reduction, rows):
    hidden, weight, target = inputs(rows)
    loss = linear_binary_cross_entropy(
        hidden, weight, target, token_weight=paddle.zeros([rows]), reduction=reduction, impl=impl
    )
    assert loss.shape == ([rows, 5] if reduction == "none" else [])
    loss.sum().backward()
    assert float(loss.sum()) == 0.0
    assert not hidden.grad.numpy().any()
    assert not weight.grad.numpy().any()


@IMPLS
@pytest.mark.parametrize("classes", [5, 40, 2100])
def test_gradient_scales_with_what_comes_from_above(impl, classes):
    hidden, weight, target = inputs(classes=classes)
    above = paddle.randn([4, classes])
    loss = linear_binary_cross_entropy(hidden, weight, target, reduction="none", impl=impl)
    (found,) = paddle.grad((loss * above).sum(), [hidden])
    sigmoid = paddle.nn.functional.sigmoid(paddle.matmul(hidden, weight, transpose_y=True))
    expected = paddle.matmul((sigmoid - target) * above, weight)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-4)


@IMPLS
def test_nan_is_not_hidden(impl):
    hidden, weight, target = inputs()
    broken = hidden.detach().clone()
    broken[2, 1] = float("nan")
    losses = linear_binary_cross_entropy(broken, weight, target, reduction="none", impl=impl).numpy()
    assert np.isnan(losses).all(axis=1).tolist() == [False, False, True, False]
    assert np.isnan(losses).sum() == 5


def test_float64_runs_in_plain_paddle_to_float64_accuracy():
    case = make_case(33, 20, 41, **EVERYTHING)
    truth, plain = gold(case), run(case, "auto", "float64")
    for name, value in plain.items():
        assert value.dtype == np.float64
        assert largest_error(value, truth[name]) <= 1e-13 * np.abs(truth[name]).max()


@IMPLS
def test_bool_and_double_targets_are_converted_and_get_no_gradient(impl):
    hidden, weight, target = inputs()
    hard = target > 0.5
    plain = linear_binary_cross_entropy(hidden, weight, hard.astype("float32"), impl=impl)
    assert float(linear_binary_cross_entropy(hidden, weight, hard, impl=impl)) == float(plain)
    double = hard.astype("float64")
    double.stop_gradient = False
    loss = linear_binary_cross_entropy(hidden, weight, double, impl=impl)
    assert float(loss) == float(plain)
    single = hard.astype("float32")
    single.stop_gradient = False
    (loss + linear_binary_cross_entropy(hidden, weight, single, impl=impl)).backward()
    assert double.grad is None
    assert single.grad is None


@IMPLS
@pytest.mark.parametrize("value", [1.5, -0.25, float("nan")])
def test_target_out_of_range_names_the_place(impl, value):
    hidden, weight, target = paddle.randn([2, 2, 3]), paddle.randn([5, 3]), paddle.rand([2, 2, 5])
    target[1, 0, 3] = value
    message = rf"linear_binary_cross_entropy: target\[1, 0, 3\] is {value:g}; expected a number in \[0, 1\]"
    with pytest.raises(InvalidInputError, match=message):
        linear_binary_cross_entropy(hidden, weight, target, impl=impl)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": [5, 4]}, r"weight: expected shape \[5, 3\] .*got \[5, 4\]"),
        ({"hidden": [4, 0]}, r"hidden: expected shape \[..., D\] with D at least 1, got \[4, 0\]"),
        ({"target": [4]}, r"target: expected shape \[4, 5\] .*got \[4\]"),
        ({"target": [5, 4]}, r"target: expected shape \[4, 5\] .*got \[5, 4\]"),
        ({"bias": [4]}, r"bias: expected shape \[5\] .*got \[4\]"),
        ({"pos_weight": [4]}, r"pos_weight: expected shape \[5\] .*got \[4\]"),
        ({"token_weight": [4, 1]}, r"token_weight: expected shape \[4\] .*got \[4, 1\]"),
        ({"softcap": -1.0}, r"softcap: expected a finite number in \[0, inf\], got -1.0"),
        ({"reduction": "average"}, r"reduction: expected one of 'none', 'sum', 'mean', got 'average'"),
        ({"weight_layout": "oi"}, r"weight_layout: expected one of 'vd', 'dv', got 'oi'"),
        ({"impl": "fast"}, r"impl: expected one of 'auto', 'fused', 'reference', got 'fast'"),
    ],
    ids=str,
)
def test_invalid_values(change, message):
    hidden, weight, target = inputs()
    arguments = {"hidden": hidden, "weight": weight, "target": target}
    for name, value in change.items():
        arguments[name] = paddle.zeros(value) if isinstance(value, list) else value
    with pytest.raises(InvalidInputError, match=message):
        linear_binary_cross_entropy(**arguments)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden", 3, "hidden: expected a paddle.Tensor, got int"),
        ("target", np.zeros((4, 5)), "target: expected a paddle.Tensor, got ndarray"),
        ("target", paddle.zeros([4, 5], "int64"), "target: expected dtype float32 .* bool, got int64"),
        ("bias", paddle.zeros([5], "float64"), "bias: expected dtype float32, got float64"),
        ("pos_weight", 2.0, "pos_weight: expected a paddle.Tensor, got float"),
        ("softcap", True, "softcap: expected a Python number, got bool"),
    ],
    ids=str,
)
def test_invalid_types(name, value, message):
    hidden, weight, target = inputs()
    with pytest.raises(InvalidDtypeError, match=message):
        linear_binary_cross_entropy(**{"hidden": hidden, "weight": weight, "target": target, name: value})


def test_fused_refuses_float64_and_says_why():
    hidden, weight, target = inputs()
    hidden, weight = hidden.astype("float64"), weight.astype("float64")
    with pytest.raises(UnsupportedError, match="the compiled kernel computes in float32, hidden is float64"):
        linear_binary_cross_entropy(hidden, weight, target, impl="fused")
    assert explain_dispatch("linear_binary_cross_entropy", hidden, weight, target).chosen == "reference"


TARGET = """
import paddle_infra
from paddle_infra._core import extension
from tests.ops.linear_cross_entropy_cases import SHAPES_OF_TARGETS
from tests.ops.linear_binary_cross_entropy_cases import EVERYTHING, check, check_medium, make_case

for shape in SHAPES_OF_TARGETS:
    for options in ({}, EVERYTHING):
        check(make_case(*shape, **options))
        if shape[2] > 16:
            check_medium(make_case(*shape, **options))
print(extension.require().isa)
"""


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_every_instruction_set(isa):
    assert python_with_isa(isa, TARGET).split()[-1] == isa
