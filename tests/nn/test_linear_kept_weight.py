"""nn.Linear: a rounded weight that is kept as long as it is right."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddle_infra import nn, ops
from paddle_infra.nn import linear as module
from paddle_infra.ops import set_matmul_precision

ROWS, IN, OUT = 9, 40, 50


@pytest.fixture
def packings(monkeypatch):
    """The shapes of the weights that were packed so far."""
    made = []
    pack = ops.pack_weight

    def count(weight):
        made.append(tuple(weight.shape))
        return pack(weight)

    monkeypatch.setattr(ops, "pack_weight", count)
    return made


def make(activation="none", seed=0, **options):
    paddle.seed(seed)
    layer = nn.Linear(IN, OUT, activation, **options)
    layer.eval()
    return layer


def batch(seed=1):
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal((ROWS, IN)).astype("float32"))


def infer(layer, x=None):
    with paddle.no_grad(), set_matmul_precision("medium"):
        return layer(batch() if x is None else x).numpy()


def unkept(layer):
    """What the layer must give: its weight rounded in the call."""
    with paddle.no_grad(), set_matmul_precision("medium"):
        return ops.linear(batch(), layer.weight, layer.bias, activation=layer.activation).numpy()


def test_the_weight_is_rounded_once(packings):
    layer = make("gelu")
    results = [infer(layer) for _ in range(3)]
    assert packings == [(IN, OUT)]
    for result in results:
        np.testing.assert_array_equal(result, unkept(layer))


def test_highest_never_keeps_a_weight(packings):
    layer = make()
    with paddle.no_grad():
        layer(batch())
    layer(batch())
    assert packings == []
    assert layer._kept is None


def test_highest_does_not_use_a_kept_weight():
    layer = make()
    infer(layer)
    with paddle.no_grad():
        exact = layer(batch()).numpy()
    np.testing.assert_allclose(exact, F.linear(batch(), layer.weight, layer.bias).numpy(), atol=2e-6)


@pytest.mark.parametrize("way", ["train", "gradients"])
def test_a_call_that_may_precede_a_step_keeps_none(packings, way):
    layer = make()
    infer(layer)
    if way == "train":
        layer.train()
        infer(layer)
        layer.eval()
    else:
        with set_matmul_precision("medium"):
            layer(batch())
    assert layer._kept is None
    assert len(packings) == 1
    np.testing.assert_array_equal(infer(layer), unkept(layer))
    assert len(packings) == 2


def step(layer, optimizer_class):
    optimizer = optimizer_class(0.1, parameters=layer.parameters())
    with set_matmul_precision("medium"):
        layer(batch()).square().mean().backward()
    optimizer.step()
    optimizer.clear_grad()


def new_values(layer):
    return np.random.default_rng(7).standard_normal(layer.weight.shape).astype("float32")


def assign_slice(layer):
    with paddle.no_grad():
        layer.weight[...] = paddle.to_tensor(new_values(layer))


def assign_one(layer):
    with paddle.no_grad():
        layer.weight[3, 7] = 5.0


def in_place(layer):
    with paddle.no_grad():
        layer.weight.scale_(2.0)


def add_in_place(layer):
    with paddle.no_grad():
        layer.weight.add_(paddle.to_tensor(new_values(layer)))


def new_parameter(layer):
    layer.weight = paddle.create_parameter([IN, OUT], "float32")


def state_dict(layer):
    missing, unexpected = layer.set_state_dict(make(seed=11).state_dict())
    assert not missing
    assert not unexpected


def copied(layer):
    layer.weight.copy_(paddle.to_tensor(new_values(layer)), True)


def initialized(layer):
    paddle.nn.initializer.Normal()(layer.weight)


CHANGES = {
    "SGD": lambda layer: step(layer, paddle.optimizer.SGD),
    "AdamW": lambda layer: step(layer, paddle.optimizer.AdamW),
    "set_value": lambda layer: layer.weight.set_value(new_values(layer)),
    "set_state_dict": state_dict,
    "slice": assign_slice,
    "one number": assign_one,
    "scale_": in_place,
    "add_": add_in_place,
    "copy_": copied,
    "initializer": initialized,
    "another parameter": new_parameter,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_weight_is_rounded_again(name):
    layer = make("gelu")
    before = infer(layer)
    CHANGES[name](layer)
    after = infer(layer)
    np.testing.assert_array_equal(after, unkept(layer))
    assert (after != before).any()
    np.testing.assert_array_equal(infer(layer), after)


def test_a_step_without_a_call_of_the_layer_in_between():
    """As with gradients that came from elsewhere."""
    layer = make()
    infer(layer)
    optimizer = paddle.optimizer.SGD(0.5, parameters=layer.parameters())
    F.linear(batch(), layer.weight, layer.bias).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(infer(layer), unkept(layer))


@pytest.mark.parametrize("shape", [(1, 1), (64, 128), (128, 64), (40, 50), (7, 1), (1, 9)], ids=str)
def test_set_value_of_any_row_or_column(shape):
    """Nothing counts it: the sample must have met it."""
    layer = nn.Linear(*shape)
    layer.eval()
    x = paddle.ones([2, shape[0]])
    infer(layer, x)
    for axis in (0, 1):
        for index in range(shape[axis]):
            values, kept = layer.weight.numpy().copy(), layer._kept
            np.moveaxis(values, axis, 0)[index] += 1.0
            layer.weight.set_value(values)
            infer(layer, x)
            assert layer._kept is not kept, (axis, index)


def test_a_checkpoint(tmp_path):
    layer, other = make(), make(seed=5)
    paddle.save(other.state_dict(), str(tmp_path / "layer.pdparams"))
    before = infer(layer)
    layer.set_state_dict(paddle.load(str(tmp_path / "layer.pdparams")))
    np.testing.assert_array_equal(infer(layer), infer(other))
    assert (infer(layer) != before).any()


def test_copies_keep_their_own(packings):
    layer = make()
    expected = infer(layer)
    other = copy.deepcopy(layer)
    assert other._kept is None
    np.testing.assert_array_equal(infer(other), expected)
    assert len(packings) == 2
    with paddle.no_grad():
        other.weight.scale_(2.0)
    np.testing.assert_array_equal(infer(layer), expected)
    np.testing.assert_array_equal(infer(other), unkept(other))


def test_a_copy_does_not_take_a_new_weight_for_the_old_one():
    """Where the copied layer's weight was, another may lie later."""
    kept = make()
    infer(kept)
    other = copy.deepcopy(kept)
    other.weight, kept.weight = kept.weight, paddle.create_parameter([IN, OUT], "float32")
    other.weight.set_value(new_values(other))
    np.testing.assert_array_equal(infer(other), unkept(other))


def test_a_kept_weight_is_not_pickled():
    layer = make()
    infer(layer)
    assert pickle.loads(pickle.dumps(layer._kept)) is None


def test_nans_in_the_weight_do_not_make_it_new_every_time(packings):
    layer = make()
    layer.weight.set_value(np.full([IN, OUT], np.nan, "float32"))
    assert np.isnan(infer(layer)).all()
    infer(layer)
    assert len(packings) == 1


def test_two_layers_with_one_weight():
    first, second = make(), make(seed=3)
    second.weight = first.weight
    infer(first), infer(second)
    first.weight.set_value(new_values(first))
    np.testing.assert_array_equal(infer(first), unkept(first))
    np.testing.assert_array_equal(infer(second), unkept(second))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_another_thread_may_drop_it_at_any_moment(monkeypatch, moment):
    """A call with gradients, between two looks of this thread at what is kept."""
    layer = make()
    expected = infer(layer)
    is_of = module._Kept.is_of

    def drop_and_compare(kept, weight):
        if moment == "before":
            layer._kept = None
        found = is_of(kept, weight)
        layer._kept = None
        return found

    monkeypatch.setattr(module._Kept, "is_of", drop_and_compare)
    np.testing.assert_array_equal(infer(layer), expected)


def test_a_captured_program_keeps_nothing(packings):
    layer = make("silu")
    expected = infer(layer)
    program = paddle.jit.to_static(layer, full_graph=True)
    np.testing.assert_allclose(infer(program), expected, rtol=1e-6, atol=1e-6)
    layer.weight.set_value(new_values(layer))
    np.testing.assert_allclose(infer(program), unkept(layer), rtol=1e-6, atol=1e-6)


def test_an_encoder_trains_and_infers_in_turn():
    """Kept weights never survive an epoch."""
    paddle.seed(0)
    layers = paddle.nn.Sequential(nn.Linear(IN, 64, "swiglu"), nn.Linear(32, 3))
    optimizer = paddle.optimizer.AdamW(0.01, parameters=layers.parameters())
    for _ in range(3):
        layers.train()
        with set_matmul_precision("medium"):
            layers(batch()).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
        layers.eval()
        x = batch()
        with paddle.no_grad(), set_matmul_precision("medium"):
            found = layers(x).numpy()
            for layer in layers:
                x = ops.linear(x, layer.weight, layer.bias, activation=layer.activation)
        np.testing.assert_array_equal(found, x.numpy())
