"""Accelerated models compute what PaddleNLP's compute: outputs and all gradients, against float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra.integrations import paddlenlp as fused_nlp
from tests.integrations.nlp_models import (
    CLASSES,
    CLASSIFIERS,
    ENCODERS,
    LENGTHS,
    VOCABULARY,
    assert_close,
    gradients_of,
    ids,
    in_float64,
    make,
    masks,
    outputs_and_gradients,
    tensors,
)


@pytest.mark.parametrize("name", [*CLASSIFIERS, *ENCODERS])
@pytest.mark.parametrize("is_training", [True, False])
def test_outputs_and_gradients_of_every_model(name: str, is_training: bool) -> None:
    model = make(name)
    model.train() if is_training else model.eval()
    inputs = tensors(input_ids=ids())
    gold = in_float64(model, **inputs)
    fused_nlp.accelerate(model)
    assert_close(outputs_and_gradients(model, **inputs), gold)


@pytest.mark.parametrize("name", ["BertModel", "ErnieModel", "RobertaModel", "TinyBertModel"])
@pytest.mark.parametrize("form", list(masks()))
def test_every_form_of_mask(name: str, form: str) -> None:
    model = make(name)
    inputs = tensors(input_ids=np.where(ids() == 0, 5, ids()), attention_mask=masks()[form])
    if form == "none":
        inputs = tensors(input_ids=ids())
    gold = in_float64(model, **inputs)
    fused_nlp.accelerate(model)
    assert_close(outputs_and_gradients(model, **inputs), gold)


@pytest.mark.parametrize("form", ["none", "int64", "additive", "bool-4d"])
def test_masks_of_electra(form: str) -> None:
    """It converts none itself, and adds 2-D floats as they are."""
    model = make("ElectraModel")
    inputs = tensors(input_ids=ids(), attention_mask=masks()[form])
    gold = in_float64(model, **inputs)
    fused_nlp.accelerate(model)
    assert_close(outputs_and_gradients(model, **inputs), gold)


@pytest.mark.parametrize("name", ["BertModel", "ErnieModel", "RobertaModel", "ElectraModel"])
def test_token_types_and_positions(name: str) -> None:
    model = make(name)
    generator = np.random.default_rng(1)
    inputs = tensors(
        input_ids=ids(),
        token_type_ids=generator.integers(0, 2, ids().shape),
        position_ids=generator.integers(0, 30, ids().shape),
    )
    gold = in_float64(model, **inputs)
    fused_nlp.accelerate(model)
    assert_close(outputs_and_gradients(model, **inputs), gold)


@pytest.mark.parametrize("hidden_act", ["gelu", "relu", "silu", "swish", "tanh", "elu"])
def test_activations(hidden_act: str) -> None:
    model = make("BertModel", hidden_act=hidden_act)
    inputs = tensors(input_ids=ids())
    gold = in_float64(model, **inputs)
    fused_nlp.accelerate(model)
    assert_close(outputs_and_gradients(model, **inputs), gold)


def test_pre_norm() -> None:
    """No model of 2.8.1 with these classes is pre-norm; somebody's may be."""
    model = make("BertModel")
    for layer in model.encoder.layers:
        layer.normalize_before = True
    inputs = tensors(input_ids=ids())
    gold = in_float64(model, **inputs)
    fused_nlp.accelerate(model)
    assert_close(outputs_and_gradients(model, **inputs), gold)


@pytest.mark.parametrize("extra", [1, 7])
def test_padding_changes_nothing(extra: int) -> None:
    model = make("BertForTokenClassification")
    fused_nlp.accelerate(model)
    keep = masks()["int64"]
    assert keep is not None
    garbage = np.random.default_rng(extra).integers(1, VOCABULARY, (len(LENGTHS), extra))
    weight = np.random.default_rng(3).normal(size=(*keep.shape, CLASSES)) * keep[..., None]

    def run(tokens: np.ndarray, mask: np.ndarray) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        model.clear_gradients()
        logits = model(**tensors(input_ids=tokens, attention_mask=mask))[:, : keep.shape[1]]
        kept = logits * paddle.to_tensor(weight.astype("float32"))
        kept.sum().backward()
        return [kept.numpy()], gradients_of(model)

    plain = run(ids(), keep)
    padded = run(np.concatenate([ids(), garbage], 1), np.pad(keep, ((0, 0), (0, extra))))
    assert_close(padded, plain)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_loss_without_logits(name: str) -> None:
    model = make(name)
    shape = ids().shape[: 1 if "Sequence" in name else 2]
    labels = np.random.default_rng(2).integers(0, VOCABULARY if "MaskedLM" in name else CLASSES, shape)
    labels[1:2] = -100
    inputs = tensors(input_ids=ids())

    def gradients(loss: paddle.Tensor) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        model.clear_gradients()
        loss.backward()
        return [loss.numpy()], gradients_of(model)

    if name.startswith("DistilBert"):  # takes no labels
        logits = model(**inputs)
        found = paddle.nn.functional.cross_entropy(
            logits.reshape([-1, CLASSES]), paddle.to_tensor(labels).reshape([-1])
        )
    else:
        found = model(**inputs, labels=paddle.to_tensor(labels))[0]
    expected = gradients(found)
    fused_nlp.accelerate(model)
    assert_close(gradients(fused_nlp.loss(model, **inputs, labels=paddle.to_tensor(labels))), expected)
    valid = fused_nlp.loss(model, **inputs, labels=paddle.to_tensor(labels), mean_over="valid")
    ratio = labels.size / (labels != -100).sum()
    np.testing.assert_allclose(valid.numpy(), expected[0][0] * ratio, rtol=1e-5)


def test_the_loss_of_several_labels() -> None:
    model = make("BertForSequenceClassification")
    inputs = tensors(input_ids=ids())
    labels = paddle.to_tensor(np.random.default_rng(2).integers(0, 2, (3, CLASSES)).astype("float32"))
    fused_nlp.accelerate(model)
    found = fused_nlp.loss(model, **inputs, labels=labels)
    assert model.config.problem_type is None
    expected = model(**inputs, labels=labels)[0]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5)
    assert model.config.problem_type == "multi_label_classification"
    again = fused_nlp.loss(model, **inputs, labels=labels)
    np.testing.assert_allclose(again.numpy(), expected.numpy(), rtol=1e-5)


def test_medium_precision_is_available() -> None:
    """What PaddleNLP's own layers cannot: bfloat16 products on the CPU, close to float32 and not equal."""
    from paddle_infra import ops

    model = make("BertModel")
    model.eval()
    inputs = tensors(input_ids=ids())
    fused_nlp.accelerate(model)
    with paddle.no_grad():
        exact = model(**inputs)[0].numpy()
        before = ops.get_matmul_precision()
        ops.set_matmul_precision("medium")
        try:
            rounded = model(**inputs)[0].numpy()
        finally:
            ops.set_matmul_precision(before)
    assert 0 < np.abs(rounded - exact).max() < 0.05
