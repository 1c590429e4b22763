"""linear number by number: both precisions, edge sizes, layouts, gradients that are not wanted, NaN."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddle_infra.ops import implementation, linear, pack_weight, set_matmul_precision
from tests.ops.fresh_process import INSTRUCTION_SETS, python_with_isa
from tests.ops.linear_cases import (
    ACTIVATIONS,
    PRECISIONS,
    Case,
    bfloat16,
    check,
    check_random_cases,
    gold,
    make_case,
    run,
)

IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])
EVERY_ACTIVATION = pytest.mark.parametrize("activation", ACTIVATIONS)
EVERY_PRECISION = pytest.mark.parametrize("precision", PRECISIONS)


@EVERY_ACTIVATION
@pytest.mark.parametrize("rows", [0, 1, 7, 255, 256, 257, 700])
def test_rows(rows, activation):
    check(make_case(rows, 31, 94, activation))


@EVERY_ACTIVATION
@pytest.mark.parametrize(
    "shape", [(5, 1, 2), (1, 1, 2), (7, 127, 382), (13, 400, 10), (3, 257, 2), (19, 64, 386), (257, 384, 398)]
)
def test_awkward_sizes(shape, activation):
    """For swiglu half of the columns are 1, 5, 191, 193, 199."""
    check(make_case(*shape, activation))


@pytest.mark.parametrize("columns", [1, 3, 17, 383, 385, 769])
@pytest.mark.parametrize("activation", ["none", "gelu", "relu"])
def test_odd_columns(columns, activation):
    check(make_case(23, 37, columns, activation))


@EVERY_ACTIVATION
def test_without_a_bias(activation):
    check(make_case(33, 70, 50, activation, bias=False))


@pytest.mark.parametrize("activation", ["none", "gelu", "swiglu"])
def test_sizes_of_an_encoder(activation):
    check(make_case(300, 768, 3072, activation))
    check(make_case(130, 3072, 768, activation))


@EVERY_ACTIVATION
@pytest.mark.parametrize("scale", [1e-3, 1e2, 1e4])
def test_large_and_small_numbers(scale, activation):
    check(make_case(60, 50, 40, activation, scale=scale), factor=2.0)


def test_gold_is_pinned_by_finite_differences():
    for activation in ACTIVATIONS:
        case = make_case(4, 3, 6, activation)
        truth = gold(case)

        def total(case=case):
            return (gold(case).results["y"] * case.grad_y).sum()

        for name in ("x", "weight", "bias"):
            values = getattr(case, name).astype("float64")
            setattr(case, name, values)
            for index in np.ndindex(values.shape):
                kept, around = values[index], []
                for step in (1e-5, -1e-5):
                    values[index] = kept + step
                    around.append(total())
                values[index] = kept
                slope = (around[0] - around[1]) / 2e-5
                assert slope == pytest.approx(truth.results[name][index], abs=1e-8), (activation, name)


def test_values_computed_by_hand():
    x, weight, bias = (
        paddle.to_tensor([[1.0, 2.0]]),
        paddle.to_tensor([[3.0, -1.0], [0.5, 0.25]]),
        [1.0, -1.0],
    )
    bias = paddle.to_tensor(bias)
    expected = {
        "none": [5.0, -1.5],
        "relu": [5.0, 0.0],
        "silu": [5 / (1 + math.exp(-5)), -1.5 / (1 + math.exp(1.5))],
        "gelu": [2.5 * math.erfc(-5 / math.sqrt(2)), -0.75 * math.erfc(1.5 / math.sqrt(2))],
        "swiglu": [5 / (1 + math.exp(-5)) * -1.5],
    }
    for impl in ("fused", "reference"):
        for activation, values in expected.items():
            y = linear(x, weight, bias, activation=activation, impl=impl)
            np.testing.assert_allclose(y.numpy(), [values], rtol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_relation_of_the_plain_form_to_paddle_s_functions(activation):
    """They have another tanh-GELU for the sake of ONNX, and swiglu of their own."""
    z = paddle.linspace(-8, 8, 60).reshape([3, 20])
    theirs = {
        "none": lambda z: z,
        "gelu": paddle.nn.functional.gelu,
        "gelu_tanh": lambda z: paddle.nn.functional.gelu(z, approximate=True),
        "relu": paddle.nn.functional.relu,
        "silu": paddle.nn.functional.silu,
        "swiglu": paddle.nn.functional.swiglu,
    }
    y = linear(z, paddle.eye(20), activation=activation, impl="reference")
    np.testing.assert_allclose(y.numpy(), theirs[activation](z).numpy(), rtol=1e-5, atol=1e-6)


@IMPLS
@EVERY_ACTIVATION
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3), (2, 0, 3)])
def test_leading_axes(impl, activation, lead):
    x, weight, bias = paddle.rand([*lead, 5]), paddle.rand([5, 6]), paddle.rand([6])
    x.stop_gradient = weight.stop_gradient = bias.stop_gradient = False
    y = linear(x, weight, bias, activation=activation, impl=impl)
    assert y.shape == [*lead, 3 if activation == "swiglu" else 6]
    y.sum().backward()
    assert x.grad.shape == [*lead, 5]
    flat = linear(x.reshape([-1, 5]), weight, bias, activation=activation, impl=impl)
    np.testing.assert_allclose(y.numpy().ravel(), flat.numpy().ravel(), rtol=1e-6)
    if 0 in lead:
        assert not weight.grad.numpy().any()
        assert not bias.grad.numpy().any()


@EVERY_PRECISION
def test_non_contiguous_inputs(precision):
    case = make_case(23, 18, 32, "gelu")
    truth = run(case, "fused", precision=precision)
    x = paddle.to_tensor(np.ascontiguousarray(case.x.T), stop_gradient=False)
    weight = paddle.to_tensor(np.repeat(case.weight, 2, axis=1), stop_gradient=False)
    bias = paddle.to_tensor(np.repeat(case.bias, 3), stop_gradient=False)
    assert not x.T.is_contiguous()
    assert not weight[:, ::2].is_contiguous()
    with set_matmul_precision(precision):
        y = linear(x.T, weight[:, ::2], bias[::3], activation="gelu", impl="fused")
        # The gradient that arrives is not contiguous either.
        (y.T * paddle.to_tensor(case.grad_y.T)).sum().backward()
    np.testing.assert_array_equal(y.numpy(), truth["y"])
    np.testing.assert_array_equal(x.grad.numpy().T, truth["x"])
    np.testing.assert_array_equal(weight.grad.numpy()[:, ::2], truth["weight"])
    np.testing.assert_array_equal(bias.grad.numpy()[::3], truth["bias"])
    assert not weight.grad.numpy()[:, 1::2].any()


def test_a_gradient_that_is_one_number_everywhere():
    """That of a sum is expanded: all strides are 0."""
    case = make_case(9, 7, 12, "silu")
    case.grad_y[:] = 1.0
    tensors = [paddle.to_tensor(a, stop_gradient=False) for a in (case.x, case.weight, case.bias)]
    linear(*tensors, activation="silu", impl="fused").sum().backward()
    expected = run(case, "fused")
    for tensor, name in zip(tensors, ("x", "weight", "bias"), strict=True):
        np.testing.assert_array_equal(tensor.grad.numpy(), expected[name])


def test_a_part_of_an_array_that_lies_at_an_odd_address():
    case = make_case(40, 20, 31, "gelu")
    expected = run(case, "fused")["y"]
    for offset in range(1, 8):
        memory = paddle.zeros([offset + case.x.size])
        memory[offset:] = paddle.to_tensor(case.x.ravel())
        x = memory[offset:].reshape(case.x.shape)
        y = linear(x, paddle.to_tensor(case.weight), paddle.to_tensor(case.bias), activation="gelu")
        np.testing.assert_array_equal(y.numpy(), expected)


def called_with(monkeypatch, *tensors, **options):
    """The attributes that the compiled operator is given, and whether each tensor gets a gradient."""
    seen = []
    original = paddle._C_ops._run_custom_op

    def spy(name, *arguments):
        seen.append(arguments[-5:])
        return original(name, *arguments)

    monkeypatch.setattr(paddle._C_ops, "_run_custom_op", spy)
    y = linear(*tensors, **options, impl="fused")
    monkeypatch.undo()
    if not y.stop_gradient:
        y.sum().backward()
    return seen[0][2:], [tensor is not None and tensor.grad is not None for tensor in tensors]


@EVERY_ACTIVATION
@EVERY_PRECISION
def test_only_gradients_that_are_wanted_are_computed(monkeypatch, activation, precision):
    case = make_case(30, 20, 26, activation)
    expected = run(case, "fused", precision=precision)
    for wanted in np.ndindex(2, 2, 2):
        tensors = [paddle.to_tensor(array) for array in (case.x, case.weight, case.bias)]
        for tensor, is_wanted in zip(tensors, wanted, strict=True):
            tensor.stop_gradient = not is_wanted
        with set_matmul_precision(precision):
            flags, _ = called_with(monkeypatch, *tensors, activation=activation)
            for tensor in tensors:
                tensor.clear_gradient(False)
            y = linear(*tensors, activation=activation, impl="fused")
        # What forward keeps, and the two products of backward.
        assert flags == (activation != "none" and any(wanted), bool(wanted[0]), bool(wanted[1]))
        assert y.stop_gradient == (not any(wanted))
        np.testing.assert_array_equal(y.numpy(), expected["y"])
        if any(wanted):
            y.backward(paddle.to_tensor(case.grad_y))
        for tensor, is_wanted, name in zip(tensors, wanted, ("x", "weight", "bias"), strict=True):
            assert (tensor.grad is not None) == bool(is_wanted)
            if is_wanted:
                np.testing.assert_array_equal(tensor.grad.numpy(), expected[name])


def test_nothing_is_kept_without_gradients(monkeypatch):
    tensors = [paddle.rand(shape) for shape in ([4, 3], [3, 6])]
    for tensor in tensors:
        tensor.stop_gradient = False
    with paddle.no_grad():
        flags, _ = called_with(monkeypatch, *tensors, None, activation="gelu")
    assert flags == (False, False, False)


def test_no_gradient_of_a_gradient():
    x = paddle.rand([3, 4])
    weight = paddle.rand([4, 5])
    x.stop_gradient = weight.stop_gradient = False
    y = linear(x, weight, activation="silu", impl="fused")
    (slope,) = paddle.grad(y.sum(), [x], create_graph=True)
    with pytest.raises(ValueError, match="does not appear in the backward graph"):
        paddle.grad(slope.sum(), [x])


def test_the_backward_pass_multiplies_like_its_forward_pass():
    case = make_case(20, 30, 14, "gelu")
    expected = run(case, "fused", precision="medium")
    x = paddle.to_tensor(case.x, stop_gradient=False)
    with set_matmul_precision("medium"):
        y = linear(x, paddle.to_tensor(case.weight), paddle.to_tensor(case.bias), activation="gelu")
    y.backward(paddle.to_tensor(case.grad_y))
    np.testing.assert_array_equal(x.grad.numpy(), expected["x"])
    assert np.abs(expected["x"] - run(case, "fused")["x"]).max() > 1e-4


@EVERY_ACTIVATION
@pytest.mark.parametrize("shape", [(1, 3, 2), (300, 130, 386)], ids=str)
def test_a_packed_weight_changes_no_bit(shape, activation):
    case = make_case(*shape, activation)
    results = []
    for is_packed in (False, True):
        tensors = [paddle.to_tensor(a, stop_gradient=False) for a in (case.x, case.weight, case.bias)]
        packed = pack_weight(tensors[1]) if is_packed else None
        with set_matmul_precision("medium"):
            y = linear(*tensors, activation=activation, packed_weight=packed, impl="fused")
        y.backward(paddle.to_tensor(case.grad_y))
        results.append([tensor.numpy() for tensor in (y, *(tensor.grad for tensor in tensors))])
    for plain, with_packed in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, with_packed)


def test_a_packed_weight_is_used_in_medium_precision_only():
    case = make_case(5, 6, 7)
    x, weight = paddle.to_tensor(case.x), paddle.to_tensor(case.weight)
    zero = pack_weight(paddle.zeros_like(weight))
    assert np.abs(linear(x, weight, packed_weight=zero).numpy()).min() > 0
    assert np.abs(linear(x, weight, packed_weight=zero, impl="reference").numpy()).min() > 0
    with set_matmul_precision("medium"):
        assert not linear(x, weight, packed_weight=zero).numpy().any()


def test_pack_weight_rounds_to_the_nearest_even():
    numbers = np.concatenate(
        [
            np.random.default_rng(0).standard_normal(100_003).astype("float32"),
            np.array(
                [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0.0, -0.0, np.inf, -np.inf, 2**-126, 3e38], "float32"
            ),
        ]
    )
    packed = pack_weight(paddle.to_tensor(numbers[None]))
    assert packed.dtype == paddle.bfloat16
    assert packed.stop_gradient
    found = packed.astype("float32").numpy()[0]
    np.testing.assert_array_equal(found.view("uint32"), bfloat16(numbers).view("uint32"))


def test_pack_weight_keeps_every_nan():
    """Also one whose mark is among the bits that are cut off, which would be infinity without them."""
    numbers = np.array([[0x7F800001, 0xFF800001, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF] * 7], "uint32").view(
        "float32"
    )
    assert np.isnan(pack_weight(paddle.to_tensor(numbers)).astype("float32").numpy()).all()


@EVERY_ACTIVATION
@EVERY_PRECISION
def test_a_nan_is_not_hidden(activation, precision):
    """The fused form only: Paddle's own relu makes 0 of a NaN."""
    case = make_case(20, 9, 40, activation)
    case.x[7, 3] = np.nan
    with set_matmul_precision(precision):
        y = linear(
            *map(paddle.to_tensor, (case.x, case.weight, case.bias)), activation=activation, impl="fused"
        )
    is_nan = np.isnan(y.numpy())
    assert is_nan[7].all()
    assert is_nan.sum() == y.shape[1]


@EVERY_ACTIVATION
@EVERY_PRECISION
def test_a_nan_from_above_is_not_hidden(activation, precision):
    case = make_case(20, 9, 40, activation)
    case.grad_y[4, 2] = np.nan
    found = run(case, "fused", precision=precision)
    assert np.isnan(found["x"][4]).all()
    assert np.isnan(found["x"]).sum() == 9
    assert np.isnan(found["weight"][:, 2]).all()
    assert np.isnan(found["bias"][2])
    assert np.isnan(found["bias"]).sum() == (2 if activation == "swiglu" else 1)


def test_infinities_stay_what_they_are():
    x = paddle.to_tensor([[1.0], [-1.0]])
    weight = paddle.to_tensor([[np.inf, 1.0]], dtype="float32")
    for activation, low in (
        ("none", -np.inf),
        ("relu", 0.0),
        ("gelu", 0.0),
        ("gelu_tanh", 0.0),
        ("silu", 0.0),
    ):
        y = linear(x, weight, activation=activation, impl="fused").numpy()
        assert y[0, 0] == np.inf
        assert y[1, 0] == pytest.approx(low, abs=1e-35)


@IMPLS
@pytest.mark.parametrize("activation", ["silu", "swiglu"])
def test_gradients_of_silu_stay_finite_far_below_zero(impl, activation):
    """Those of Paddle's own silu are NaN below -88.7."""
    z = paddle.to_tensor([[-80.0, -89.0, -200.0, -1e4, 1.0, 1.0, 1.0, 1.0]], stop_gradient=False)
    linear(z, paddle.eye(8), activation=activation, impl=impl).sum().backward()
    assert np.abs(z.grad.numpy()[0, :4]).max() < 1e-30


def test_float64_runs_in_plain_paddle_to_float64_accuracy():
    for activation in ACTIVATIONS:
        case = make_case(33, 20, 42, activation)
        found = run(case, "auto", "float64")
        for name, true in gold(case).results.items():
            assert found[name].dtype == np.float64
            assert np.abs(found[name] - true).max() <= 1e-13 * np.abs(true).max(), (activation, name)


def test_plain_paddle_ignores_the_precision():
    case = make_case(9, 8, 7)
    with set_matmul_precision("medium"):
        found = run(case, "reference")
    with implementation("reference"):
        again = run(case, "auto")
    for name, value in found.items():
        np.testing.assert_array_equal(value, again[name])


def test_a_case_is_what_it_says():
    """The check finds the error of one product that was not rounded, and of one that should not have been."""
    case = make_case(40, 60, 50)
    for precision in PRECISIONS:
        truth = gold(case, precision).results["y"]
        other = run(case, "fused", precision="medium" if precision == "highest" else "highest")["y"]
        assert np.abs(other - truth).max() > 1e-3 * np.abs(truth).max()
    assert isinstance(case, Case)


@pytest.mark.parametrize("first", [0, 200])
def test_random_cases(first):
    check_random_cases(range(first, first + 200))


TARGET = """
import paddle_infra
from paddle_infra._core import extension
from tests.ops.linear_cases import cases_of_targets, check

for case in cases_of_targets():
    check(case, factor=2.0)
print(extension.require().isa)
"""


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_every_instruction_set(isa):
    assert python_with_isa(isa, TARGET).split()[-1] == isa
