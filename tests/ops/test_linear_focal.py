from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra._core.tolerances import largest_error
from paddle_infra.ops import explain_dispatch, linear_cross_entropy, linear_focal
from tests.ops.fresh_process import INSTRUCTION_SETS, python_with_isa
from tests.ops.head_cases import BORDERS
from tests.ops.head_fuzz import random_shape_and_options
from tests.ops.linear_focal_cases import EVERYTHING, Case, check, check_medium, gold, make_case, run

IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])
OPTIONS = [
    {},
    {"gamma": 0.0},
    {"gamma": 0.5},
    {"gamma": 1.0},
    {"gamma": 5.0},
    {"bias": False},
    {"ignored": 0.3},
    {"ignored": 0.3, "ignore_index": 2},
    {"class_weight": True},
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
    tensors = paddle.randn([rows, features]), paddle.randn([classes, features]), paddle.arange(rows) % classes
    for tensor in tensors[:2]:
        tensor.stop_gradient = False
    return tensors


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(77, 50, 11), (77, 50, 301), (70, 20, 2100)], ids=str)
def test_options(options, shape):
    check(make_case(*shape, **options))


@pytest.mark.parametrize("classes", BORDERS)
@pytest.mark.parametrize("rows", [1, 130, 300])
@pytest.mark.parametrize("everything", [False, True])
def test_every_mode_at_its_borders(classes, rows, everything):
    check(make_case(rows, 33, classes, **(EVERYTHING if everything else {})))


@pytest.mark.parametrize("classes", [classes for classes in BORDERS if classes > 16])
def test_medium_precision_is_exact_for_rounded_factors(classes):
    check_medium(make_case(130, 33, classes, ignored=0.1, gamma=1.5))


def test_random_combinations():
    for seed in range(600):
        shape, options = random_shape_and_options(seed, "focal")
        check(make_case(*shape, **options), factor=2.0)  # 2: see test_linear_cross_entropy_accuracy.py


@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_large_random_logits(scale, gamma):
    # Rounding the logits dominates both errors: either may happen to be the larger one.
    check(make_case(97, 64, 311, scale=scale, gamma=gamma), factor=2.0)


@IMPLS
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_certain_rows_have_no_loss_and_finite_gradients(impl, gamma):
    # p is 1 or 0 to the last bit: a power of 0 has an infinite slope for gamma below 1.
    weight = 1e4 * np.eye(20, dtype="float32")
    case = Case(np.eye(20, dtype="float32"), weight, np.arange(20), options={"gamma": gamma})
    for value in run(case, impl).values():
        assert np.abs(value).max() < 1e-30  # Paddle's own exp(-1e4) is not quite 0
    case.label = (case.label + 1) % 20
    truth, found = gold(case), run(case, impl)
    assert float(found["loss"]) == pytest.approx(1e4, rel=1e-6)
    for name in ("hidden", "weight"):
        assert largest_error(found[name], truth[name]) <= 1e-6 * np.abs(truth[name]).max()


@IMPLS
def test_gamma_0_is_cross_entropy(impl):
    hidden, weight, label = inputs(50, 20, 30)
    options = {"class_weight": paddle.rand([30]) + 0.5, "softcap": 2.0, "impl": impl}
    focal = linear_focal(hidden, weight, label, gamma=0.0, **options)
    plain = linear_cross_entropy(hidden, weight, label, **options)
    assert float(focal) == pytest.approx(float(plain), rel=1e-6)
    for one, other in zip(
        paddle.grad(focal, [hidden, weight]), paddle.grad(plain, [hidden, weight]), strict=True
    ):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-8, rtol=1e-5)


@IMPLS
def test_pinned_by_hand(impl):
    # Two classes with logits log 3 and 0: p = 3/4, so (1 - p)^2 (-log p) = log(4/3) / 16.
    hidden, weight = paddle.to_tensor([[1.0]]), paddle.to_tensor([[float(np.log(3.0))], [0.0]])
    assert float(linear_focal(hidden, weight, paddle.to_tensor([0]), impl=impl)) == pytest.approx(
        np.log(4 / 3) / 16, rel=1e-6
    )


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
    hidden, weight, label = inputs(rows)
    loss = linear_focal(hidden, weight, label * 0 - 100, reduction=reduction, impl=impl)
    assert loss.shape == ([rows] if reduction == "none" else [])
    loss.sum().backward()
    assert float(loss.sum()) == 0.0
    assert not hidden.grad.numpy().any()
    assert not weight.grad.numpy().any()


@IMPLS
def test_nan_is_not_hidden(impl):
    hidden, weight, label = inputs()
    broken = hidden.detach().clone()
    broken[2, 1] = float("nan")
    losses = linear_focal(broken, weight, label, reduction="none", impl=impl).numpy()
    assert np.isnan(losses).tolist() == [False, False, True, False]


def test_float64_runs_in_plain_paddle_to_float64_accuracy():
    case = make_case(33, 20, 41, **EVERYTHING)
    truth, plain = gold(case), run(case, "auto", "float64")
    for name, value in plain.items():
        assert value.dtype == np.float64
        assert largest_error(value, truth[name]) <= 1e-13 * np.abs(truth[name]).max()


@IMPLS
def test_labels_and_weights_are_converted(impl):
    hidden, weight, label = inputs()
    token_weight = paddle.rand([4])
    plain = linear_focal(hidden, weight, label, token_weight=token_weight, impl=impl)
    token_weight.stop_gradient = False
    converted = linear_focal(
        hidden, weight, label.astype("int32"), gamma=2, token_weight=token_weight.astype("float64"), impl=impl
    )
    assert float(plain) == float(converted)
    converted.backward()
    assert token_weight.grad is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": [5, 4]}, r"weight: expected shape \[5, 3\] .*got \[5, 4\]"),
        ({"weight": [0, 3]}, r"weight: expected two dimensions, none of them 0, got \[0, 3\]"),
        ({"hidden": [4, 0]}, r"hidden: expected shape \[..., D\] with D at least 1, got \[4, 0\]"),
        ({"label": [4, 1]}, r"label: expected shape \[4\] .*got \[4, 1\]"),
        ({"label": [2, 2]}, r"label: expected shape \[4\] .*got \[2, 2\]"),
        ({"bias": [4]}, r"bias: expected shape \[5\] .*got \[4\]"),
        ({"bias": [5, 1]}, r"bias: expected shape \[5\] .*got \[5, 1\]"),
        ({"class_weight": [1, 5]}, r"class_weight: expected shape \[5\] .*got \[1, 5\]"),
        ({"token_weight": [4, 1]}, r"token_weight: expected shape \[4\] .*got \[4, 1\]"),
        ({"gamma": -1.0}, r"gamma: expected a finite number in \[0, inf\], got -1.0"),
        ({"gamma": float("inf")}, r"gamma: expected a finite number in \[0, inf\], got inf"),
        ({"softcap": -1.0}, r"softcap: expected a finite number in \[0, inf\], got -1.0"),
        ({"reduction": "average"}, r"reduction: expected one of 'none', 'sum', 'mean', got 'average'"),
        ({"weight_layout": "oi"}, r"weight_layout: expected one of 'vd', 'dv', got 'oi'"),
        ({"impl": "fast"}, r"impl: expected one of 'auto', 'fused', 'reference', got 'fast'"),
        ({"ignore_index": 3}, r"linear_focal: label\[3\] is 9; expected ignore_index \(3\) or a class"),
    ],
    ids=str,
)
def test_invalid_values(change, message):
    hidden, weight, label = inputs()
    arguments = {"hidden": hidden, "weight": weight, "label": label}
    if "ignore_index" in change:
        arguments["label"] = paddle.to_tensor([0, 1, 3, 9])
    for name, value in change.items():
        dtype = "int64" if name == "label" else "float32"
        arguments[name] = paddle.zeros(value, dtype) if isinstance(value, list) else value
    with pytest.raises(InvalidInputError, match=message):
        linear_focal(**arguments)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden", 3, "hidden: expected a paddle.Tensor, got int"),
        ("weight", None, "weight: expected a paddle.Tensor, got NoneType"),
        ("label", paddle.zeros([4]), "label: expected dtype int64 or int32, got float32"),
        ("bias", paddle.zeros([5], "float64"), "bias: expected dtype float32, got float64"),
        ("class_weight", [1.0] * 5, "class_weight: expected a paddle.Tensor, got list"),
        ("token_weight", paddle.zeros([4], "int64"), "token_weight: expected dtype float32 .* got int64"),
        ("gamma", "2", "gamma: expected a Python number, got str"),
        ("ignore_index", 1.0, "ignore_index: expected an int, got float"),
    ],
    ids=str,
)
def test_invalid_types(name, value, message):
    hidden, weight, label = inputs()
    with pytest.raises(InvalidDtypeError, match=message):
        linear_focal(**{"hidden": hidden, "weight": weight, "label": label, name: value})


def test_fused_refuses_float64_and_says_why():
    hidden, weight, label = inputs()
    hidden, weight = hidden.astype("float64"), weight.astype("float64")
    with pytest.raises(UnsupportedError, match="the compiled kernel computes in float32, hidden is float64"):
        linear_focal(hidden, weight, label, impl="fused")
    assert explain_dispatch("linear_focal", hidden, weight, label).chosen == "reference"


TARGET = """
import paddle_infra
from paddle_infra._core import extension
from tests.ops.linear_cross_entropy_cases import SHAPES_OF_TARGETS
from tests.ops.linear_focal_cases import EVERYTHING, check, check_medium, make_case

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
