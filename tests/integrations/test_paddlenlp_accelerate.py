"""In place, reversibly, and nothing silently otherwise: objects, names, reports, refusals."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra.integrations import paddlenlp as fused_nlp
from tests.integrations.nlp_models import (
    CLASSES,
    CLASSIFIERS,
    ENCODERS,
    assert_close,
    ids,
    in_float64,
    make,
    outputs_and_gradients,
    tensors,
    transformers,
)


def classes(model: nn.Layer) -> dict[str, type]:
    return {name: type(layer) for name, layer in model.named_sublayers(include_self=True)}


def replaced(report: fused_nlp.AccelerationReport) -> set[str]:
    return {entry.name for entry in report.replaced}


def left(report: fused_nlp.AccelerationReport) -> dict[str, str]:
    return {entry.name: entry.reason for entry in report.left}


@pytest.mark.parametrize("name", [*CLASSIFIERS, *ENCODERS])
def test_the_same_objects_and_names(name: str) -> None:
    model = make(name)
    # PaddleNLP's own code notes things on its layers.
    outputs_and_gradients(model, **tensors(input_ids=ids()))
    before, layers, state = classes(model), dict(model.named_sublayers()), model.state_dict()
    attributes = {key: set(vars(layer)) for key, layer in layers.items()}
    report = fused_nlp.accelerate(model)
    assert dict(model.named_sublayers()) == layers
    assert list(model.state_dict()) == list(state)
    assert all(value is state[key] for key, value in model.state_dict().items())
    assert type(model) is before[""]
    changed = classes(model)
    assert {key for key in before if changed[key] is not before[key]} == replaced(report)
    assert all(issubclass(changed[key], before[key]) for key in before)
    outputs_and_gradients(model, **tensors(input_ids=ids()))
    report.restore()
    assert classes(model) == before
    assert dict(model.named_sublayers()) == layers
    assert {key: set(vars(layer)) for key, layer in layers.items()} == attributes
    report.restore()  # once more


def test_the_report_of_bert() -> None:
    model = make("BertForSequenceClassification")
    report = fused_nlp.accelerate(model)
    parts = ("self_attn", "norm1", "norm2", "linear1", "linear2")
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    expected = {"bert.embeddings", "bert.embeddings.layer_norm", "classifier"}
    for index in range(2):
        layer = f"bert.encoder.layers.{index}"
        expected |= {layer, *(f"{layer}.{part}" for part in parts)}
        expected |= {f"{layer}.self_attn.{part}" for part in projections}
    assert replaced(report) == expected
    assert left(report) == {"bert.pooler.dense": "no fused form in this place"}
    text = str(report)
    assert "BertForSequenceClassification: 23 layers replaced, 1 left" in text
    assert "2 MultiHeadAttention: ops.attention; not if the weights (output_attentions=True)" in text


@pytest.mark.parametrize("name", ["ErnieModel", "RobertaModel"])
def test_tables_with_padding_are_left_and_it_is_said(name: str) -> None:
    report = fused_nlp.accelerate(make(name))
    assert "padding_idx" in left(report)["embeddings"]
    assert "embeddings.layer_norm" in replaced(report)


def test_a_table_with_padding_in_bert_is_left() -> None:
    model = make("BertModel")
    model.embeddings.word_embeddings._padding_idx = 0
    inputs = tensors(input_ids=ids())
    gold = in_float64(model, **inputs)
    report = fused_nlp.accelerate(model)
    assert left(report)["embeddings"] == "word_embeddings gives zeros for padding_idx=0"
    assert_close(outputs_and_gradients(model, **inputs), gold)


def test_attention_weights_come_from_the_original() -> None:
    model = make("BertModel")
    model.eval()
    inputs = tensors(input_ids=ids())
    options: dict[str, Any] = {"output_attentions": True, "output_hidden_states": True, "return_dict": True}
    expected = model(**inputs, **options)
    plain = model(**inputs)
    fused_nlp.accelerate(model)
    found = model(**inputs, **options)
    assert len(found.attentions) == 2
    for name in ("attentions", "hidden_states"):
        for one, other in zip(found[name], expected[name], strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-5)
    after = model(**inputs)  # the flag of the call before is gone
    assert len(after) == 2
    np.testing.assert_allclose(after[0].numpy(), plain[0].numpy(), rtol=1e-4, atol=1e-5)


def test_cached_calls_come_from_the_original() -> None:
    model = make("BertModel")
    model.eval()
    tokens = ids()[:1]
    first, second = tensors(input_ids=tokens[:, :5]), tensors(input_ids=tokens[:, 5:])

    def run() -> np.ndarray:
        start = model(**first, use_cache=True, return_dict=True)
        found = model(**second, past_key_values=start.past_key_values, use_cache=True, return_dict=True)
        return found[0].numpy()

    expected = run()
    fused_nlp.accelerate(model)
    np.testing.assert_allclose(run(), expected, rtol=1e-4, atol=1e-5)


def test_recompute() -> None:
    model = make("BertModel")
    inputs = tensors(input_ids=ids())
    gold = in_float64(model, **inputs)
    model.encoder.enable_recompute = True
    fused_nlp.accelerate(model)
    assert_close(outputs_and_gradients(model, **inputs), gold)


class _Doubling(nn.MultiHeadAttention):
    def forward(self, *args: Any, **options: Any) -> Any:
        return super().forward(*args, **options) * 2


def test_subclasses_are_left_and_run() -> None:
    model = make("BertModel")
    layer = model.encoder.layers[0]
    doubling = _Doubling(32, 4)
    doubling.set_state_dict(layer.self_attn.state_dict())
    layer.self_attn = doubling
    inputs = tensors(input_ids=ids())
    gold = in_float64(model, **inputs)
    report = fused_nlp.accelerate(model)
    reason = left(report)["encoder.layers.0.self_attn"]
    assert "a subclass of paddle.nn.layer.transformer.MultiHeadAttention" in reason
    assert "encoder.layers.1.self_attn" in replaced(report)
    assert type(layer.self_attn) is _Doubling
    assert_close(outputs_and_gradients(model, **inputs), gold)


class _Adapter(nn.Layer):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear, self.scale = linear, self.create_parameter([1])
        self.scale.set_value(paddle.to_tensor([1.5]))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.linear(x) * self.scale


def test_adapters_set_in_afterwards_are_called() -> None:
    model = make("BertModel")
    fused_nlp.accelerate(model)
    for layer in model.encoder.layers:
        layer.linear1, layer.self_attn.q_proj = _Adapter(layer.linear1), _Adapter(layer.self_attn.q_proj)
    inputs = tensors(input_ids=ids())
    found = outputs_and_gradients(model, **inputs)
    fused_nlp.restore(model)
    assert_close(found, in_float64(model, **inputs))


@pytest.mark.parametrize("part", ["linear1", "linear2", "norm1", "norm2", "dropout1", "dropout2"])
@pytest.mark.parametrize("is_pre_norm", [False, True])
def test_hooks_are_called(part: str, is_pre_norm: bool) -> None:
    model = make("BertModel")
    inputs = tensors(input_ids=ids())
    layer = model.encoder.layers[0]
    layer.normalize_before = is_pre_norm
    getattr(layer, part).register_forward_post_hook(lambda layer, inputs, output: output * 1.5)
    gold = in_float64(model, **inputs)
    fused_nlp.accelerate(model)
    assert_close(outputs_and_gradients(model, **inputs), gold)


def test_lora_of_paddlenlp_afterwards() -> None:
    from paddlenlp.peft import LoRAConfig, LoRAModel

    model = make("BertForSequenceClassification")
    fused_nlp.accelerate(model)
    tuned = LoRAModel(model, LoRAConfig(target_modules=[".*q_proj.*", ".*linear1.*"], r=2, lora_alpha=4))
    tuned.mark_only_lora_as_trainable()
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.set_value(paddle.normal(shape=parameter.shape) * 0.3)
    inputs = tensors(input_ids=ids())
    logits, gradients = outputs_and_gradients(tuned, **inputs)
    fused_nlp.restore(tuned)
    expected_logits, expected = outputs_and_gradients(tuned, **inputs)
    assert gradients
    assert all("lora_" in name for name in gradients)
    assert_close((logits, gradients), (expected_logits, expected))


def test_copies_and_pickles_are_accelerated_too() -> None:
    model = make("BertModel")
    model.eval()
    fused_nlp.accelerate(model)
    inputs = tensors(input_ids=ids())
    expected = model(**inputs)[0].numpy()
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(twin(**inputs)[0].numpy(), expected)
    fused_nlp.restore(model)
    assert len(fused_nlp.accelerate(model).replaced) == 22
    fused_nlp.restore(twin)
    assert classes(twin) == classes(make("BertModel"))
    layer = model.encoder.layers[0]
    assert type(pickle.loads(pickle.dumps(layer))) is type(layer)


def test_save_pretrained(tmp_path: Path) -> None:
    model = make("ErnieForSequenceClassification")
    model.eval()
    inputs = tensors(input_ids=ids())
    fused_nlp.accelerate(model)
    expected = model(**inputs).numpy()
    model.save_pretrained(str(tmp_path))
    loaded = transformers.ErnieForSequenceClassification.from_pretrained(str(tmp_path))
    loaded.eval()
    assert type(loaded).__name__ in loaded.config.architectures
    np.testing.assert_allclose(loaded(**inputs).numpy(), expected, rtol=1e-4, atol=1e-5)
    fused_nlp.accelerate(loaded)
    np.testing.assert_array_equal(loaded(**inputs).numpy(), expected)


def test_a_layer_with_a_model_inside() -> None:
    class Task(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = make("ErnieForTokenClassification")

        def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
            return paddle.nn.functional.softmax(self.classifier(tokens))

    task = Task()
    report = fused_nlp.accelerate(task)
    assert "classifier.classifier" in replaced(report)
    labels = paddle.zeros(ids().shape, "int64")
    found = fused_nlp.loss(task, tokens=paddle.to_tensor(ids()), labels=labels)
    expected = task.classifier(paddle.to_tensor(ids()), labels=labels)[0]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5)


def test_what_cannot_be_accelerated() -> None:
    with pytest.raises(InvalidDtypeError, match=r"expected a paddle\.nn\.Layer, got list"):
        fused_nlp.accelerate([])
    with pytest.raises(InvalidInputError, match=r"expected a model of paddlenlp\.transformers.* got Linear"):
        fused_nlp.accelerate(nn.Linear(2, 2))
    model = make("BertModel")
    fused_nlp.accelerate(model)
    with pytest.raises(InvalidInputError, match="restore it first"):
        fused_nlp.accelerate(model)


def test_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    import paddlenlp

    model = make("BertModel")
    monkeypatch.setattr(paddlenlp, "__version__", "3.0.0")
    before = classes(model)
    with pytest.raises(UnsupportedError, match=r"expected PaddleNLP 2\.8\.\*, got 3\.0\.0"):
        fused_nlp.accelerate(model)
    assert classes(model) == before


def test_a_patched_class(monkeypatch: pytest.MonkeyPatch) -> None:
    def patched(self: Any, src: Any, *args: Any, **options: Any) -> Any:
        return src

    monkeypatch.setattr(nn.TransformerEncoderLayer, "forward", patched)
    report = fused_nlp.accelerate(make("BertModel"))
    assert f"was replaced by {__name__}" in left(report)["encoder.layers.0"]


def test_the_loss_says_what_it_needs() -> None:
    inputs = tensors(input_ids=ids())
    labels = paddle.zeros([3], "int64")
    model = make("BertForSequenceClassification")
    with pytest.raises(UnsupportedError, match="none of them ran in BertForSequenceClassification"):
        fused_nlp.loss(model, **inputs, labels=labels)
    fused_nlp.accelerate(model)
    with pytest.raises(InvalidInputError, match="mean_over"):
        fused_nlp.loss(model, **inputs, labels=labels, mean_over="some")  # type: ignore[arg-type]
    hook = model.classifier.register_forward_post_hook(lambda *_: None)
    with pytest.raises(UnsupportedError, match="without forward hooks"):
        fused_nlp.loss(model, **inputs, labels=labels)
    hook.remove()
    assert model(**inputs).shape == [3, CLASSES]
    regression = make("BertForSequenceClassification", num_labels=1)
    fused_nlp.accelerate(regression)
    with pytest.raises(InvalidInputError, match=r"a regression \(1 outputs\)"):
        fused_nlp.loss(regression, **inputs, labels=paddle.zeros([3]))
