"""Merged adapters compute the same; unmerged weights are the old ones to the last bit."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra import peft
from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.models import BertForSequenceClassification
from paddle_infra.ops import set_matmul_precision
from tests.peft.tiny import MERGEABLE, METHODS, adapted, logits, model, randomize


@pytest.mark.parametrize("method", MERGEABLE)
def test_merged_equals_unmerged(method: str) -> None:
    made = adapted(method)
    before, weights = logits(made), {name: t.numpy() for name, t in made.state_dict().items()}
    peft.merge(made)
    assert any((t.numpy() != weights[name]).any() for name, t in made.state_dict().items())
    np.testing.assert_allclose(logits(made), before, atol=1e-5)
    peft.unmerge(made)
    assert all(np.array_equal(t.numpy(), weights[name]) for name, t in made.state_dict().items())
    assert np.array_equal(logits(made), before)


@pytest.mark.parametrize("method", MERGEABLE)
def test_merged_for_good_it_is_a_plain_model(method: str, tmp_path) -> None:
    made, plain = adapted(method), model()
    before = logits(made)
    peft.apply(made, METHODS["prefix"], name="other")
    peft.set_adapter(made, "default")
    peft.merge_and_remove(made)
    np.testing.assert_allclose(logits(made), before, atol=1e-5)
    assert [type(layer) for layer in made.sublayers()] == [type(layer) for layer in plain.sublayers()]
    assert list(made.state_dict()) == list(plain.state_dict())
    assert not any(p.stop_gradient for p in made.parameters())
    assert not peft.adapters(made)
    made.save_pretrained(tmp_path)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path)
    loaded.eval()
    assert np.array_equal(logits(loaded), logits(made))


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(MERGEABLE)))
def test_what_no_weight_can_express_is_refused(method: str) -> None:
    made = adapted(method)
    before = logits(made)
    for function in (peft.merge, peft.merge_and_remove):
        with pytest.raises(
            UnsupportedError, match=r"merge: expected an adapter of LoRA, AdaLoRA or IA³, got 'default'"
        ):
            function(made)
    assert np.array_equal(logits(made), before)


def test_rounded_weights_follow() -> None:
    """nn.Linear keeps a rounded weight, and may not notice that few of its numbers have changed."""
    made = adapted("ia3")
    with set_matmul_precision("medium"):
        exact = logits(made)
        peft.merge(made)
        merged = logits(made)
        peft.unmerge(made)
        assert np.array_equal(logits(made), exact)
    np.testing.assert_allclose(merged, exact, atol=0.05)


def test_only_one_number_changes_and_is_noticed() -> None:
    made = model()
    peft.apply(made, peft.IA3Config())
    key = made.encoder.stack.layers[0].attention.key
    with peft.disabled(made), set_matmul_precision("medium"):
        logits(made)
    key._parameters["bias"].set_value(paddle.zeros([16]))
    weight = np.zeros([16, 16], "float32")
    weight[3, 5] = 1.0
    key._parameters["weight"].set_value(weight)
    with set_matmul_precision("medium"), paddle.no_grad():
        made.encoder.stack.layers[0].attention.key(paddle.ones([1, 16]))
        factors = np.ones([16], "float32")
        factors[5] = 3.0
        key.adapters["default"].factors.set_value(factors)
        peft.merge(made)
        assert float(key(paddle.ones([1, 16]))[0, 5]) == 3.0


def test_refusals_while_merged() -> None:
    made = adapted("lora")
    with pytest.raises(InvalidInputError, match="unmerge: expected a merged adapter, got none"):
        peft.unmerge(made)
    peft.merge(made)
    for call in (
        lambda: peft.merge(made),
        lambda: peft.set_adapter(made, None),
        lambda: peft.delete_adapter(made, "default"),
        lambda: peft.apply_lora(made, name="other"),
        lambda: peft.disabled(made).__enter__(),
    ):
        with pytest.raises(
            InvalidInputError, match=r"expected adapters that are not merged, got 'default' merged"
        ):
            call()
    peft.unmerge(made)
    peft.set_adapter(made, None)
    with pytest.raises(
        InvalidInputError, match=r"name: expected one of the adapters \['default'\], got None"
    ):
        peft.merge(made)


def test_shared_weights_are_refused() -> None:
    paddle.seed(0)
    layers = paddle.nn.Sequential(("one", paddle.nn.Linear(4, 4)), ("two", paddle.nn.Linear(4, 4)))
    layers.two.weight = layers.one.weight
    peft.apply_lora(layers, layers=".*")
    randomize(layers)
    with pytest.raises(UnsupportedError, match="weights of their own, got one of one and two"):
        peft.merge(layers)
