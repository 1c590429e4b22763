"""Structured pruning: the cut model is the model with zeros, and smaller; configurations stay true."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra import compress, export, nn
from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.compress import (
    equally_many,
    keep_layers,
    least_important,
    magnitude_importance,
    prune_channels,
    prune_heads,
    taylor_importance,
)
from paddle_infra.models import BertForSequenceClassification
from tests.compress.models import DYNAMIC, bert, logits_of, token_examples

LAYER = "encoder.stack.layers.{}"
HEADS = {LAYER.format(0) + ".attention": [1, 3], LAYER.format(2) + ".attention": [0, 1, 2]}
CHANNELS = {LAYER.format(0): list(range(0, 48, 2)), LAYER.format(1): [47]}


def zeroed_rows(linear: paddle.nn.Linear, rows: list[int]) -> None:
    weight = linear.weight.numpy().copy()
    weight[rows] = 0
    linear.weight.set_value(weight)


def loss(model: Any, batch: Any) -> paddle.Tensor:
    inputs, labels = batch
    return model.loss(**{n: paddle.to_tensor(v) for n, v in inputs.items()}, labels=paddle.to_tensor(labels))


def test_cut_heads_are_heads_that_give_zero() -> None:
    model, examples = bert(), token_examples()
    before = logits_of(model, examples)
    pruned = prune_heads(model, HEADS)
    assert (logits_of(model, examples) == before).all()
    for name, heads in HEADS.items():
        attention = dict(model.named_sublayers())[name]
        zeroed_rows(attention.output, [8 * head + i for head in heads for i in range(8)])
    expected = logits_of(model, examples)
    assert np.abs(expected - before).max() > 1e-2
    np.testing.assert_allclose(logits_of(pruned, examples), expected, atol=2e-6)
    attention = pruned.encoder.stack.layers[0].attention
    assert [list(p.weight.shape) for p in (attention.query, attention.value, attention.output)] == [
        [32, 16],
        [32, 16],
        [16, 32],
    ]
    assert attention.num_heads == 2
    saved = sum(p.size for p in model.parameters()) - sum(p.size for p in pruned.parameters())
    assert saved == 5 * (4 * 32 * 8 + 3 * 8)


@pytest.mark.parametrize("activation", ["gelu", "swiglu", "geglu"])
def test_cut_channels_are_channels_of_zeros(activation: str) -> None:
    paddle.seed(0)
    encoder = nn.TransformerEncoder(2, 32, 4, 48, activation=activation)
    encoder.eval()
    x = paddle.randn([2, 5, 32])
    channels = {"layers.0": list(range(0, 48, 2)), "layers.1": [47]}
    pruned = prune_channels(encoder, channels)
    for name, indices in channels.items():
        zeroed_rows(dict(encoder.named_sublayers())[name].output, indices)
    with paddle.no_grad():
        np.testing.assert_allclose(pruned(x).numpy(), encoder(x).numpy(), atol=3e-6)
    columns = 24 * (1 if activation == "gelu" else 2)
    assert list(pruned.layers[0].intermediate.weight.shape) == [32, columns]
    assert list(pruned.layers[1].output.weight.shape) == [47, 32]


def test_kept_layers_are_the_teachers() -> None:
    model, examples = bert(), token_examples()
    student = keep_layers(model, [0, -1])
    assert student.config.num_hidden_layers == 2
    assert len(model.encoder.stack.layers) == 3
    assert (
        student.encoder.stack.layers[1].output.weight == model.encoder.stack.layers[2].output.weight
    ).all()
    model.encoder.stack.layers = paddle.nn.LayerList(
        [model.encoder.stack.layers[0], model.encoder.stack.layers[2]]
    )
    assert (logits_of(student, examples) == logits_of(model, examples)).all()


def test_padding_changes_nothing_in_a_pruned_model() -> None:
    model, examples = prune_channels(prune_heads(bert(), HEADS), CHANNELS), token_examples()
    together = logits_of(model, examples)
    for row, length in enumerate(examples["attention_mask"].sum(1)):
        alone = {name: value[row : row + 1, :length] for name, value in examples.items()}
        np.testing.assert_allclose(logits_of(model, alone)[0], together[row], atol=2e-6)


def test_a_pruned_and_quantized_model_exports(tmp_path: Path) -> None:
    model = compress.quantize_linears(prune_channels(prune_heads(bert(), HEADS), CHANNELS))
    export.to_inference(model, tmp_path / "export", token_examples(), dynamic_axes=DYNAMIC, atol=1e-6)


def test_a_pruned_model_trains() -> None:
    model = prune_channels(prune_heads(bert(), HEADS), CHANNELS)
    optimizer = paddle.optimizer.Adam(1e-2, parameters=model.parameters())
    batch = token_examples(), np.array([0, 1, 2, 0])
    losses = []
    for _ in range(8):
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]


def test_what_a_configuration_can_tell_is_saved(tmp_path: Path) -> None:
    equal = {LAYER.format(i): list(range(16)) for i in range(3)}
    model = keep_layers(prune_channels(bert(), equal), [0, 2])
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (2, 32)
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    again.eval()
    assert (logits_of(again, token_examples()) == logits_of(model, token_examples())).all()


@pytest.mark.parametrize("prune", [lambda m: prune_heads(m, HEADS), lambda m: prune_channels(m, CHANNELS)])
def test_what_it_cannot_tell_is_refused(prune: Any, tmp_path: Path) -> None:
    for model in (prune(bert()), copy.deepcopy(prune(bert()))):
        with pytest.raises(UnsupportedError, match=r"keep it with paddle_infra\.compress\.save_compressed"):
            model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
    # Cut down to what can be told again, it is saved again.
    model = keep_layers(prune_channels(bert(), CHANNELS), [2])
    model.save_pretrained(tmp_path)
    assert model.config.intermediate_size == 48


def head_mask_gradient(model: Any, name: str, batch: Any) -> np.ndarray:
    """|∂L/∂ξ| of a mask ξ on a layer's heads, for one sample, by central differences."""
    layer = dict(model.named_sublayers())[name].output
    weight = layer.weight.numpy().copy()
    found = []
    for head in range(4):
        values = []
        for factor in (1 + 1e-2, 1 - 1e-2):
            changed = weight.copy()
            changed[8 * head : 8 * head + 8] *= factor
            layer.weight.set_value(changed)
            values.append(float(loss(model, batch)))
        found.append(abs(values[0] - values[1]) / 2e-2)
    layer.weight.set_value(weight)
    return np.array(found)


def test_taylor_importance_is_the_gradient_of_a_mask() -> None:
    model, examples, labels = bert(), token_examples(), np.array([0, 1, 2, 0])
    modes = [layer.training for layer in model.sublayers()]
    halves = [({n: v[s] for n, v in examples.items()}, labels[s]) for s in (slice(0, 3), slice(3, 4))]
    measured = taylor_importance(model, loss, halves, normalize=False)
    assert [layer.training for layer in model.sublayers()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, score in measured.heads.items():
        singles = [({n: v[i : i + 1] for n, v in examples.items()}, labels[i : i + 1]) for i in range(4)]
        expected = np.mean([head_mask_gradient(model, name, single) for single in singles], axis=0)
        np.testing.assert_allclose(score, expected, rtol=2e-2, atol=2e-3)
    assert {len(score) for score in measured.channels.values()} == {48}
    normed = taylor_importance(model, loss, halves)
    assert all(np.linalg.norm(score) == pytest.approx(1) for score in normed.heads.values())


def test_pruning_the_least_important_costs_less_than_the_most_important() -> None:
    model, examples = bert(), token_examples(24, 12)
    labels = logits_of(model, examples).argmax(-1)
    scores = taylor_importance(model, loss, [(examples, labels)]).channels
    least = equally_many(scores, 0.5)
    most = {name: sorted(set(range(48)) - set(indices)) for name, indices in least.items()}
    before = float(loss(model, (examples, labels)))
    damage = [
        float(loss(prune_channels(model, chosen), (examples, labels))) - before for chosen in (least, most)
    ]
    assert damage[0] < 0.5 * damage[1]


def test_magnitude_importance_by_hand() -> None:
    encoder = nn.TransformerEncoder(1, 8, 2, 6, activation="swiglu")
    first, second = (x.weight.numpy() for x in (encoder.layers[0].intermediate, encoder.layers[0].output))
    expected = [
        np.sqrt((first[:, j] ** 2).sum() + (first[:, j + 6] ** 2).sum()) * np.linalg.norm(second[j])
        for j in range(6)
    ]
    np.testing.assert_allclose(magnitude_importance(encoder)["layers.0"], expected, rtol=1e-5)


def test_choosing_what_matters_least() -> None:
    scores = {"a": np.array([1.0, 0.1, 0.2, 0.3]), "b": np.array([5.0, 6.0, 0.25, 7.0])}
    assert least_important(scores, 0.5) == {"a": [1, 2, 3], "b": [2]}
    assert least_important(scores, 0.5, keep=2) == {"a": [1, 2], "b": [0, 2]}
    assert least_important(scores, 0.0) == {}
    assert equally_many(scores, 0.5) == {"a": [1, 2], "b": [0, 2]}
    assert least_important({"a": np.zeros(4)}, 0.5) == {"a": [0, 1]}


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (
            lambda: prune_heads(bert(), {"nothing": [0]}),
            InvalidInputError,
            "heads: expected one of encoder.stack",
        ),
        (
            lambda: prune_heads(bert(), {LAYER.format(0): [0]}),
            InvalidInputError,
            "expected one of encoder.stack",
        ),
        (
            lambda: prune_heads(bert(), {LAYER.format(0) + ".attention": [0, 1, 2, 3]}),
            InvalidInputError,
            "distinct numbers from 0 to 3, at least one of them left out",
        ),
        (lambda: prune_channels(bert(), {LAYER.format(0): [48]}), InvalidInputError, "from 0 to 47"),
        (lambda: prune_channels(bert(), {LAYER.format(0): [1, 1]}), InvalidInputError, r"got \[1, 1\]"),
        (
            lambda: prune_heads(compress.quantize_linears(bert()), HEADS),
            UnsupportedError,
            "prune first, then quantize",
        ),
        (lambda: keep_layers(bert(), []), InvalidInputError, "expected rising numbers of the 3 layers"),
        (lambda: keep_layers(bert(), [1, 0]), InvalidInputError, r"got \[1, 0\]"),
        (lambda: keep_layers(bert(), [3]), InvalidInputError, r"got \[3\]"),
        (
            lambda: keep_layers(paddle.nn.Linear(2, 2), [0]),
            InvalidInputError,
            "expected one TransformerEncoder",
        ),
        (
            lambda: prune_heads(
                nn.TransformerEncoder(1, 32, 4, 8, num_kv_heads=2), {"layers.0.attention": [0]}
            ),
            UnsupportedError,
            "num_kv_heads=2",
        ),
        (
            lambda: prune_heads(nn.TransformerEncoder(1, 32, 4, 8, alibi=True), {"layers.0.attention": [0]}),
            UnsupportedError,
            "ALiBi True",
        ),
        (
            lambda: least_important({"a": np.array([np.nan])}, 0.5),
            InvalidInputError,
            "expected finite numbers",
        ),
        (lambda: taylor_importance(bert(), loss, []), InvalidInputError, "batches: expected at least one"),
        (lambda: magnitude_importance(paddle.nn.Linear(2, 2)), InvalidInputError, "found none"),
        (
            lambda: taylor_importance(bert(), lambda m, b: m.head.classifier.weight.sum(), [0]),
            InvalidInputError,
            "expected one that runs every Transformer layer",
        ),
    ],
)
def test_errors(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act()
