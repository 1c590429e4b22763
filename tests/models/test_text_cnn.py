from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from paddle_infra import models
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, WeightError
from paddle_infra.data import deduplicate, read_question_labels
from tests.models.padded_ids import assert_padding_has_no_effect
from tests.nn.programs import assert_program_is_layer

CONFIG = models.TextCNNConfig(
    vocab_size=20, embedding_size=6, filter_sizes=(2, 3), num_filters=4, dropout=0.0, labels=("a", "b", "c")
)


def make(**changes: object) -> models.TextCNN:
    paddle.seed(0)
    return models.TextCNN(dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]


def test_logits_are_the_formula() -> None:
    model = make()
    ids = np.random.default_rng(0).integers(0, 20, (2, 5))
    got = model(paddle.to_tensor(ids)).numpy()
    for row in range(2):
        vectors = np.pad(model.embedding.weight.numpy().astype("float64")[ids[row]], ((1, 1), (0, 0)))
        pooled = []
        for layer, width, first in zip(model.convolutions, (2, 3), (1, 0), strict=True):
            weight = layer.conv.weight.numpy()
            windows = np.stack([vectors[first + t : first + t + width] for t in range(5)])
            values = np.einsum("tkc,ock->to", windows, weight) + layer.conv.bias.numpy()
            pooled.append(np.maximum(values, 0).max(0))
        classifier = model.head.classifier
        expected = np.concatenate(pooled) @ classifier.weight.numpy() + classifier.bias.numpy()
        np.testing.assert_allclose(got[row], expected, atol=1e-6)


def test_padding_has_no_effect() -> None:
    model = make()

    def run(ids: paddle.Tensor, mask: paddle.Tensor) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
        labels = mask.sum(axis=1) % 3
        return model.loss(ids, mask, labels=labels, reduction="sum"), [model(ids, mask)]

    assert_padding_has_no_effect(model, run, 20)


def test_loss_is_the_cross_entropy_of_the_logits() -> None:
    model = make()
    ids, labels = paddle.to_tensor([[1, 2, 3], [4, 5, 6]]), paddle.to_tensor([0, 2])
    expected = paddle.nn.functional.cross_entropy(model(ids), labels)
    np.testing.assert_allclose(float(model.loss(ids, labels=labels)), float(expected), rtol=1e-6)


def test_round_trip(tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    other = models.TextCNN.from_pretrained(tmp_path)
    assert other.config == CONFIG
    ids = paddle.to_tensor([[1, 2, 3]])
    np.testing.assert_array_equal(model(ids).numpy(), other(ids).numpy())
    with pytest.raises(WeightError, match="expected model_type 'resnet', got 'text_cnn'"):
        models.ResNet.from_pretrained(tmp_path)


def test_programs(tmp_path: Path) -> None:
    specs = [
        InputSpec([None, None], "int64", "input_ids"),
        InputSpec([None, None], "int64", "attention_mask"),
    ]
    inputs = [
        [paddle.to_tensor([[1, 2, 3], [4, 5, 6]]), paddle.to_tensor([[1, 1, 1], [1, 0, 0]])],
        [paddle.to_tensor([[7]]), paddle.to_tensor([[1]])],
    ]
    assert_program_is_layer(make(), specs, inputs, tmp_path)


def test_names_and_frozen_embeddings() -> None:
    model = make(freeze_embeddings=True)
    assert {name for name, _ in model.named_parameters()} == {
        "embedding.weight",
        *(f"convolutions.{i}.conv.{kind}" for i in range(2) for kind in ("weight", "bias")),
        "head.classifier.weight",
        "head.classifier.bias",
    }
    model.loss(paddle.to_tensor([[1, 2]]), labels=paddle.to_tensor([0])).backward()
    assert model.embedding.weight.grad is None
    assert model.convolutions[0].conv.weight.grad is not None


def test_errors() -> None:
    with pytest.raises(InvalidInputError, match=r"labels: expected at least 2 names, got \['a'\]"):
        make(labels=("a",))
    with pytest.raises(InvalidInputError, match="filter_sizes: expected at least one, got none"):
        make(filter_sizes=())
    model = make()
    with pytest.raises(InvalidDtypeError, match="input_ids: expected dtype int32 or int64, got float32"):
        model(paddle.rand([2, 3]))
    with pytest.raises(InvalidInputError, match=r"input_ids: expected shape \[-1, -1\].*got \[2, 3, 1\]"):
        model(paddle.ones([2, 3, 1], dtype="int64"))
    with pytest.raises(InvalidInputError, match=r"attention_mask: expected shape \[1, 2\].*got \[1, 3\]"):
        model(paddle.to_tensor([[1, 2]]), paddle.to_tensor([[1, 1, 1]]))


def test_learns_to_tell_questions_apart(trec_file: Path) -> None:
    """Words of the question, six classes, 800 questions to learn from and 400 others to be right about."""
    examples = deduplicate(read_question_labels(trec_file))
    order = np.random.default_rng(0).permutation(len(examples))[:1200]
    words = [examples[i].text.lower().split() for i in order]
    names = sorted({examples[i].label.partition(":")[0] for i in order})
    labels = np.array([names.index(examples[i].label.partition(":")[0]) for i in order])
    vocabulary = {word: i + 2 for i, word in enumerate(sorted({w for row in words[:800] for w in row}))}
    width = max(map(len, words))
    ids = np.zeros((1200, width), dtype="int64")
    for row, tokens in enumerate(words):
        ids[row, : len(tokens)] = [vocabulary.get(word, 1) for word in tokens]
    model = make(vocab_size=len(vocabulary) + 2, embedding_size=32, num_filters=32, labels=tuple(names))
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters(), weight_decay=0.0)
    for epoch in range(3):
        for rows in np.random.default_rng(epoch).permutation(800).reshape(-1, 25):
            batch = paddle.to_tensor(ids[rows])
            model.loss(batch, (batch != 0).astype("int64"), labels=paddle.to_tensor(labels[rows])).backward()
            optimizer.step()
            optimizer.clear_grad()
    model.eval()
    test = paddle.to_tensor(ids[800:])
    predicted = model(test, (test != 0).astype("int64")).argmax(axis=-1).numpy()
    most_frequent = np.bincount(labels[800:]).max() / 400
    assert (predicted == labels[800:]).mean() > 0.6 > most_frequent + 0.3
