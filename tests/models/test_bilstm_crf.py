from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from paddle_infra import models
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.data import read_conll
from paddle_infra.data.tags import transition_error
from tests.models.padded_ids import assert_padding_has_no_effect
from tests.nn.programs import assert_program_is_layer

TAGS = ("O", "B-X", "I-X")
CONFIG = models.BiLSTMCRFConfig(
    vocab_size=20,
    embedding_size=6,
    char_vocab_size=9,
    char_embedding_size=4,
    char_filters=5,
    hidden_size=7,
    dropout=0.0,
    labels=TAGS,
)


def make(**changes: object) -> models.BiLSTMCRF:
    paddle.seed(0)
    return models.BiLSTMCRF(dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]


def characters(ids: paddle.Tensor) -> paddle.Tensor:
    """Three characters for each word, the last of them sometimes padding."""
    return paddle.stack([ids % 8 + 1, ids % 3 + 2, ids % 2], axis=-1)


def test_padding_has_no_effect() -> None:
    model = make(num_layers=2)

    def run(ids: paddle.Tensor, mask: paddle.Tensor) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
        labels = paddle.where(mask == 1, ids % 3, paddle.full_like(ids, -100))
        loss = model.loss(ids, mask, characters(ids), labels=labels, reduction="sum")
        return loss, [model(ids, mask, characters(ids)), model.decode(ids, mask, characters(ids))[0]]

    assert_padding_has_no_effect(model, run, 20)


def test_more_characters_of_padding_change_nothing() -> None:
    model = make()
    ids = paddle.to_tensor([[3, 4, 5]])
    wide = paddle.concat([characters(ids), paddle.zeros([1, 3, 4], dtype="int64")], axis=-1)
    np.testing.assert_allclose(
        model(ids, None, characters(ids)).numpy(), model(ids, None, wide).numpy(), atol=1e-6
    )
    vectors = model.characters(paddle.to_tensor([[[0, 0], [1, 0]]]))
    assert vectors.shape == [1, 2, 5]
    assert not vectors[0, 0].numpy().any()


def test_loss_and_tags_are_those_of_the_parts() -> None:
    model = make(char_vocab_size=0, scheme="iob2")
    ids, mask = paddle.to_tensor([[1, 2, 3], [4, 5, 6]]), paddle.to_tensor([[1, 1, 1], [1, 1, 0]])
    lengths = paddle.to_tensor([3, 2])
    hidden, _ = model.lstm(model.embedding(ids), lengths)
    emissions = model.output(hidden)
    np.testing.assert_allclose(model(ids, mask).numpy(), emissions.numpy(), atol=1e-6)
    labels = paddle.to_tensor([[0, 1, 2], [1, 2, -100]])
    for reduction in ("mean", "token_mean"):
        expected = model.crf.loss(emissions, labels, lengths, reduction)
        got = model.loss(ids, mask, labels=labels, reduction=reduction)
        np.testing.assert_allclose(float(got), float(expected), rtol=1e-6)
    tags, found = model.decode(ids, mask)
    assert found.tolist() == [3, 2]
    np.testing.assert_array_equal(tags.numpy(), model.crf(emissions, lengths).numpy())


def test_words_as_vectors() -> None:
    model = make(vocab_size=0, char_vocab_size=0)
    assert model.embedding is None
    vectors = paddle.rand([2, 4, 6])
    tags, lengths = model.decode(vectors)
    assert tags.shape == [2, 4]
    assert lengths.tolist() == [4, 4]
    with pytest.raises(InvalidInputError, match=r"words: expected shape \[-1, -1, 6\].*got \[2, 4, 5\]"):
        model(vectors[:, :, :5])


@pytest.mark.parametrize("changes", [{}, {"vocab_size": 0, "char_vocab_size": 0, "scheme": "iob2"}])
def test_round_trip(changes: dict, tmp_path: Path) -> None:
    model = make(**changes)
    model.save_pretrained(tmp_path)
    other = models.BiLSTMCRF.from_pretrained(tmp_path)
    assert other.config == model.config
    for (name, value), (same, expected) in zip(
        model.named_parameters(), other.named_parameters(), strict=True
    ):
        assert name == same
        np.testing.assert_array_equal(value.numpy(), expected.numpy())
    words = paddle.rand([2, 3, 6]) if changes else paddle.to_tensor([[1, 2, 3]])
    chars = None if changes else characters(words)
    np.testing.assert_array_equal(model(words, None, chars).numpy(), other(words, None, chars).numpy())


class _Tags(paddle.nn.Layer):
    def __init__(self, model: models.BiLSTMCRF) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, words: paddle.Tensor, mask: paddle.Tensor, char_ids: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        return self.model.decode(words, mask, char_ids)


class _Loss(_Tags):
    def forward(self, words: paddle.Tensor, mask: paddle.Tensor, char_ids: paddle.Tensor) -> paddle.Tensor:
        return self.model.loss(words, mask, char_ids, labels=words % 3)


@pytest.mark.parametrize("kind", ["emissions", "tags", "loss"])
def test_programs(kind: str, tmp_path: Path) -> None:
    specs = [InputSpec([None, None], "int64", name) for name in ("words", "mask")]
    specs.append(InputSpec([None, None, None], "int64", "char_ids"))
    ids = paddle.to_tensor([[1, 2, 3], [4, 5, 6]])
    inputs = [
        [ids, paddle.to_tensor([[1, 1, 1], [1, 0, 0]]), characters(ids)],
        [ids[:1, :1], paddle.to_tensor([[1]]), characters(ids)[:1, :1]],
    ]
    model = make()
    layer = {"emissions": model, "tags": _Tags(model), "loss": _Loss(model)}[kind]
    assert_program_is_layer(layer, specs, inputs, tmp_path, trains=kind != "tags", tolerance=5e-6)


def test_parameter_names() -> None:
    sides = [
        f"lstm.{side}.0.{kind}_{part}_l0"
        for side in ("ahead", "back")
        for kind in ("weight", "bias")
        for part in ("ih", "hh")
    ]
    assert {name for name, _ in make().named_parameters()} == {
        "embedding.weight",
        "characters.embedding.weight",
        "characters.convolution.conv.weight",
        "characters.convolution.conv.bias",
        *sides,
        "output.weight",
        "output.bias",
        "crf.transitions",
        "crf.start",
        "crf.end",
    }


def test_errors() -> None:
    model, ids = make(), paddle.to_tensor([[1, 2, 3], [4, 5, 6]])
    with pytest.raises(InvalidInputError, match="char_ids: expected a tensor, got NoneType"):
        model(ids)
    with pytest.raises(
        InvalidInputError, match=r"char_ids: expected None \(char_vocab_size is 0\), got Tensor"
    ):
        make(char_vocab_size=0)(ids, None, characters(ids))
    with pytest.raises(InvalidInputError, match=r"char_ids: expected shape \[2, 3, -1\].*got \[2, 2, 3\]"):
        model(ids, None, characters(ids)[:, :2])
    with pytest.raises(InvalidInputError, match=r"padding on the right, got \[0, 1, 1\] in row 1"):
        model(ids, paddle.to_tensor([[1, 1, 0], [0, 1, 1]]), characters(ids))
    with pytest.raises(
        InvalidInputError, match="expected 'O' or a letter of iob2, '-' and a type, got 'S-X'"
    ):
        make(scheme="iob2", labels=("O", "S-X"))
    with pytest.raises(InvalidInputError, match=r"labels: expected at least 2 tags, got \[\]"):
        make(labels=())


def test_learns_entities_of_conll(conll_dir: Path) -> None:
    """Three passes over a few hundred sentences; what it decodes keeps the scheme's rules."""
    sentences = read_conll(conll_dir / "train.txt")[:600]
    test = read_conll(conll_dir / "valid.txt")[:200]
    tags = ("O", *(f"{letter}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for letter in "BI"))
    counts = Counter(token.lower() for row in sentences for token in row.tokens)
    words = {word: index + 1 for index, word in enumerate(sorted(counts))}
    letters = {
        c: i + 2 for i, c in enumerate(sorted({c for row in sentences for t in row.tokens for c in t}))
    }

    def batch(rows: list) -> tuple[paddle.Tensor, ...]:
        width = max(len(row.tokens) for row in rows)
        long = max(len(token) for row in rows for token in row.tokens)
        ids, mask, labels = (np.zeros((len(rows), width), dtype="int64") for _ in range(3))
        chars = np.zeros((len(rows), width, long), dtype="int64")
        for i, row in enumerate(rows):
            for j, token in enumerate(row.tokens):
                ids[i, j], mask[i, j] = words.get(token.lower(), 0), 1
                labels[i, j] = tags.index(row.labels[j])
                chars[i, j, : len(token)] = [letters.get(c, 1) for c in token]
        return tuple(map(paddle.to_tensor, (ids, mask, chars, labels)))

    model = make(
        vocab_size=len(words) + 1,
        embedding_size=32,
        char_vocab_size=len(letters) + 2,
        char_embedding_size=16,
        char_filters=32,
        hidden_size=32,
        labels=tags,
        scheme="iob2",
    )
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters(), weight_decay=0.0)
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(len(sentences))
        for start in range(0, len(order), 20):
            ids, mask, chars, labels = batch([sentences[i] for i in order[start : start + 20]])
            model.loss(ids, mask, chars, labels=labels).backward()
            optimizer.step()
            optimizer.clear_grad()
    model.eval()
    ids, mask, chars, _ = batch(test)
    found, lengths = model.decode(ids, mask, chars)
    rows = [[tags[i] for i in row[:n]] for row, n in zip(found.tolist(), lengths.tolist(), strict=True)]
    assert all(transition_error(row, "iob2") is None for row in rows)
    gold, predicted = (
        {(i, *entity) for i, row in enumerate(source) for entity in entities(row)}
        for source in ([example.labels for example in test], rows)
    )
    f1 = 2 * len(gold & predicted) / (len(gold) + len(predicted))
    assert f1 > 0.4


def entities(tags: list[str]) -> list[tuple[int, int, str]]:
    found: list[tuple[int, int, str]] = []
    for position, tag in enumerate(tags):
        if tag.startswith("B-"):
            found.append((position, position + 1, tag[2:]))
        elif tag.startswith("I-"):
            first, _, kind = found.pop()
            found.append((first, position + 1, kind))
    return found
