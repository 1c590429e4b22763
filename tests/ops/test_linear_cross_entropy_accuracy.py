from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra._core.tolerances import largest_error
from paddle_infra.ops import linear_cross_entropy, set_matmul_precision
from tests.ops.head_cases import BORDERS
from tests.ops.head_fuzz import random_shape_and_options
from tests.ops.linear_cross_entropy_cases import (
    EVERYTHING,
    Case,
    check,
    check_medium,
    gold,
    make_case,
    run,
)

SHAPES = [
    (1, 1, 2),
    (1, 384, 6),
    (3, 7, 5),
    (13, 17, 19),
    (33, 384, 10),
    (64, 48, 240),
    (65, 49, 241),
    (252, 507, 123),
    (513, 31, 97),
    (40, 64, 1009),
    (5, 16, 30011),
]
OPTIONS = [
    {},
    {"bias": False},
    {"ignored": 0.3},
    {"ignored": 0.3, "ignore_index": 2},
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0},
    {"class_weight": True},
    {"class_weight": True, "label_smoothing": 0.2},
    {"token_weight": True},
    {"z_loss": 1e-2},
    {"softcap": 3.0},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"weight_layout": "dv"},
    EVERYTHING,
    {**EVERYTHING, "bias": False, "weight_layout": "vd", "reduction": "mean"},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("everything", [False, True])
def test_shapes(shape, everything):
    check(make_case(*shape, **(EVERYTHING if everything else {})))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options):
    check(make_case(77, 50, 301, **options))


@pytest.mark.parametrize("classes", BORDERS)
@pytest.mark.parametrize("rows", [1, 130, 300])
@pytest.mark.parametrize("everything", [False, True])
def test_every_mode_at_its_borders(classes, rows, everything):
    check(make_case(rows, 33, classes, **(EVERYTHING if everything else {})))


@pytest.mark.parametrize(
    ("rows", "classes"),
    [(1200, 2048), (1025, 2047), (600, 5003), (450, 17000)],
    ids=["rows, two chunks", "rows, an odd end", "columns, two chunks", "columns, four chunks"],
)
@pytest.mark.parametrize("everything", [False, True])
def test_several_chunks_of_rows(rows, classes, everything):
    check(make_case(rows, 20, classes, **(EVERYTHING if everything else {})))


def test_many_rows_of_few_classes():
    check(make_case(5000, 20, 5, ignored=0.1))  # more than 16 groups of 128 rows


@pytest.mark.parametrize("first", range(0, 1200, 300))
def test_random_combinations(first):
    for seed in range(first, first + 300):
        shape, options = random_shape_and_options(seed, "cross_entropy")
        # On average the fused results are the more exact ones, but of 4,800 one may meet a lucky plain one: error
        # 1.4e-6 of the largest value against 0.4e-6.
        check(make_case(*shape, **options), factor=2.0)


@pytest.mark.parametrize("classes", [classes for classes in BORDERS if classes > 16])
@pytest.mark.parametrize("everything", [False, True])
def test_medium_precision_is_exact_for_rounded_factors(classes, everything):
    check_medium(make_case(300, 33, classes, **(EVERYTHING if everything else {})))


def test_medium_precision_rounds_and_few_classes_are_not_rounded():
    for classes, is_rounded in ((16, False), (17, True), (2049, True)):
        case = make_case(64, 48, classes)
        truth = gold(case)
        with set_matmul_precision("medium"):
            error = largest_error(run(case, "fused")["weight"], truth["weight"])
        error /= np.abs(truth["weight"]).max()
        assert (1e-4 < error < 1e-2) if is_rounded else error < 1e-6


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_large_random_logits(scale):
    # Rounding the logits dominates both errors: either may happen to be the larger one.
    check(make_case(97, 64, 311, scale=scale, label_smoothing=0.1), factor=2.0)


def test_large_exact_logits_lose_nothing():
    # Every product and sum of these logits (up to 1e4) is exact, so the softmax must be as exact as for small ones.
    rng = np.random.default_rng(3)
    hidden = rng.integers(-8, 9, (50, 24)).astype("float32") / 8
    weight = 1e4 * np.eye(24, dtype="float32")
    case = Case(
        hidden, weight, rng.integers(0, 24, 50), options={"reduction": "none", "label_smoothing": 0.1}
    )
    truth, fused = gold(case), run(case, "fused")
    for name in ("loss", "hidden", "weight"):
        assert largest_error(fused[name], truth[name]) <= 3e-7 * np.abs(truth[name]).max(), name


def test_softmax_of_near_ties_at_1e4_keeps_relative_accuracy():
    # A log-sum-exp rounded to float32 at 1e4 is off by 5e-4: the gradient must not be.
    weight = np.array([[10000.0], [10000.5], [9999.0]], "float32")
    case = Case(np.ones((1, 1), "float32"), weight, np.array([0]), options={"reduction": "sum"})
    np.testing.assert_allclose(run(case, "fused")["weight"], gold(case)["weight"], rtol=2e-7)


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_one_class_has_no_loss_and_no_gradient(impl):
    for value in run(make_case(5, 3, 1, label_smoothing=0.1), impl).values():
        assert largest_error(value, np.zeros(value.shape)) <= 1e-7


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


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_non_contiguous_inputs(impl):
    case = make_case(23, 18, 31, class_weight=True, token_weight=True)
    truth = gold(case)
    hidden = paddle.to_tensor(np.ascontiguousarray(case.hidden.T), stop_gradient=False)
    weight = paddle.to_tensor(np.repeat(case.weight, 2, axis=0), stop_gradient=False)
    label = paddle.to_tensor(np.repeat(case.label, 3))
    assert not hidden.T.is_contiguous()
    loss = linear_cross_entropy(
        hidden.T,
        weight[::2],
        label[::3],
        bias=paddle.to_tensor(np.repeat(case.bias, 2))[::2],
        class_weight=paddle.to_tensor(np.repeat(case.class_weight, 2))[::2],
        token_weight=paddle.to_tensor(np.repeat(case.token_weight, 2))[::2],
        impl=impl,
    )
    loss.backward()
    assert float(loss) == pytest.approx(truth["loss"], rel=1e-6)
    np.testing.assert_allclose(hidden.grad.numpy().T, truth["hidden"], atol=1e-7)
    np.testing.assert_allclose(weight.grad.numpy()[::2], truth["weight"], atol=1e-7)
    assert not weight.grad.numpy()[1::2].any()


def test_float64_runs_in_plain_paddle_to_float64_accuracy():
    case = make_case(33, 20, 41, **EVERYTHING)
    truth, plain = gold(case), run(case, "auto", "float64")
    for name, value in plain.items():
        assert value.dtype == np.float64
        assert largest_error(value, truth[name]) <= 1e-13 * np.abs(truth[name]).max()
