"""Gradients that the forward pass of a loss makes already: given away once, made again, or not made at all."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from tests.ops import linear_binary_cross_entropy_cases as binary
from tests.ops import linear_cross_entropy_cases as cross_entropy
from tests.ops import linear_focal_cases as focal

HEADS = pytest.mark.parametrize("cases", [cross_entropy, focal, binary], ids=["ce", "focal", "binary"])
SHAPES = pytest.mark.parametrize("shape", [(140, 24, 10), (140, 24, 100), (140, 24, 2100)], ids=str)
NAMES = ("hidden", "weight", "bias")


class Step:
    """Inputs of a head, and its loss as often as wanted."""

    def __init__(self, cases, shape, wanted=NAMES, **options):
        case = cases.make_case(*shape, **options)
        self.head, self.options = cases.HEAD, case.options
        self.inputs = {name: paddle.to_tensor(getattr(case, name)) for name in NAMES}
        for name in wanted:
            self.inputs[name].stop_gradient = False
        self.label = {self.head.label: paddle.to_tensor(case.label)}
        self.tensors = list(self.inputs.values())

    def loss(self):
        return self.head.operator(**self.inputs, **self.label, **self.options, impl="fused")

    def grads(self):
        return [None if tensor.grad is None else tensor.grad.numpy() for tensor in self.tensors]


def arrays(gradients):
    return [gradient.numpy().copy() for gradient in gradients]


def assert_same(found, expected, factor=1.0):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other * np.float32(factor))


@HEADS
@SHAPES
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_second_backward_pass_computes_the_same_again(cases, shape, reduction):
    step = Step(cases, shape, reduction=reduction)
    loss = step.loss()
    first = arrays(paddle.grad(loss, step.tensors, retain_graph=True))
    for _ in range(2):
        assert_same(arrays(paddle.grad(loss, step.tensors, retain_graph=True)), first)


@HEADS
@SHAPES
def test_a_gradient_may_be_changed_in_place_before_another_backward_pass(cases, shape):
    step = Step(cases, shape)
    loss = step.loss()
    gradients = paddle.grad(loss, step.tensors, retain_graph=True)
    expected = arrays(gradients)
    for gradient in gradients:
        gradient.scale_(7.0)
    assert_same(arrays(paddle.grad(loss, step.tensors, retain_graph=True)), expected)
    assert_same(arrays(gradients), expected, 7.0)
    for tensor in step.tensors:
        assert tensor.grad is None


@HEADS
def test_gradients_of_several_steps_and_passes_add_up(cases):
    step = Step(cases, (140, 24, 100))
    expected = arrays(paddle.grad(step.loss(), step.tensors))
    for _ in range(3):
        step.loss().backward()
    # 1 + 1 + 1: the third sum rounds.
    for found, one in zip(step.grads(), expected, strict=True):
        np.testing.assert_allclose(found, 3 * one, rtol=1e-6)
    for tensor in step.tensors:
        tensor.clear_gradient(False)
    loss = step.loss()
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)
    assert_same(step.grads(), expected, 2.0)


@HEADS
@SHAPES
@pytest.mark.parametrize("factor", [4.0, -0.5, 0.0])
def test_what_comes_from_above_multiplies(cases, shape, factor):
    step = Step(cases, shape)
    expected = arrays(paddle.grad(step.loss(), step.tensors))
    scaled = step.loss() * factor
    assert_same(
        arrays(paddle.grad(scaled, step.tensors, retain_graph=True)), expected, factor
    )  # powers of two
    assert_same(arrays(paddle.grad(scaled, step.tensors)), expected, factor)


@HEADS
@SHAPES
@pytest.mark.parametrize("wanted", [("hidden",), ("weight",), ("bias",), ("hidden", "bias")], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_is_frozen_gets_nothing_and_the_others_the_same(cases, shape, wanted, reduction):
    whole = Step(cases, shape, reduction=reduction)
    whole.loss().sum().backward()
    part = Step(cases, shape, wanted, reduction=reduction)
    loss = part.loss().sum()
    loss.backward(retain_graph=True)
    for name, found, expected in zip(NAMES, part.grads(), whole.grads(), strict=True):
        if name in wanted:
            np.testing.assert_array_equal(found, expected)
        else:
            assert found is None
    loss.backward()  # computes again, also with only some of them
    for name, found, expected in zip(NAMES, part.grads(), whole.grads(), strict=True):
        if name in wanted:
            np.testing.assert_array_equal(found, 2 * expected)


@HEADS
def test_only_some_gradients_are_asked_for(cases):
    step = Step(cases, (140, 24, 100))
    expected = arrays(paddle.grad(step.loss(), step.tensors))
    loss = step.loss()
    for i, tensor in enumerate(step.tensors):
        (found,) = paddle.grad(loss, [tensor], retain_graph=True)
        np.testing.assert_array_equal(found.numpy(), expected[i])


@HEADS
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_without_gradients_the_loss_is_the_same_and_has_no_graph(cases, reduction):
    step = Step(cases, (140, 24, 100), reduction=reduction)
    expected = step.loss()
    with paddle.no_grad():
        loss = step.loss()
    assert loss.stop_gradient
    assert loss.is_leaf
    assert not expected.stop_gradient
    np.testing.assert_array_equal(loss.numpy(), expected.numpy())


@HEADS
def test_a_graph_that_is_used_up_says_so(cases):
    loss = Step(cases, (14, 24, 100)).loss()
    loss.backward()
    with pytest.raises(ValueError, match=r"a second backward pass .* retain_graph=True"):
        loss.backward()
