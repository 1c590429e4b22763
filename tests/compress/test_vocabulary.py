"""Vocabulary pruning: the same outputs for kept tokens, a map for ids, configurations that say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from paddle_infra.compress import VocabularyMap, prune_vocabulary
from paddle_infra.models import BertForMaskedLM, BertForSequenceClassification
from tests.compress.models import bert, logits_of, token_examples

KEEP = [0, 7, 3, 59, 58, 20, 21, 22, 23]


def kept_examples() -> dict[str, np.ndarray]:
    examples = token_examples()
    examples["input_ids"] = np.array(KEEP)[examples["input_ids"] % len(KEEP)]
    return examples


def test_the_same_outputs_from_fewer_rows(tmp_path: Path) -> None:
    model, examples = bert(), kept_examples()
    small, vocabulary = prune_vocabulary(model, KEEP)
    new = {**examples, "input_ids": vocabulary(examples["input_ids"])}
    assert new["input_ids"].max() < len(KEEP)
    assert (logits_of(small, new) == logits_of(model, examples)).all()
    assert small.encoder.embeddings.word.weight.shape == [9, 32]
    assert model.encoder.embeddings.word.weight.shape == [60, 32]
    assert (small.config.vocab_size, small.config.pad_token_id) == (9, 0)
    small.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    again.eval()
    assert (logits_of(again, new) == logits_of(small, new)).all()


@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_positions_and_padding_of_the_families(family: str) -> None:
    model = bert(model_type=family, pad_token_id=1)
    examples = token_examples()
    examples["input_ids"] = np.where(
        examples["attention_mask"] == 1, np.array([5, 20, 21])[examples["input_ids"] % 3], 1
    )
    small, vocabulary = prune_vocabulary(model, [0, 1, 5, 20, 21])
    new = {**examples, "input_ids": vocabulary(examples["input_ids"])}
    assert (logits_of(small, new) == logits_of(model, examples)).all()
    if family == "roberta":
        with pytest.raises(
            InvalidInputError, match="expected all ids from 0 to 1, because encoder counts positions"
        ):
            prune_vocabulary(model, [1, 5, 20])
    else:
        assert prune_vocabulary(model, [1, 5, 20])[0].config.pad_token_id == 0


def test_a_masked_language_model() -> None:
    config = bert().config
    model = BertForMaskedLM(config)
    model.eval()
    names = ("encoder.embeddings.word.weight", "output_bias")
    small, vocabulary = prune_vocabulary(model, KEEP, parameters=names)
    examples = kept_examples()
    new = {**examples, "input_ids": vocabulary(examples["input_ids"])}
    expected = logits_of(model, examples)[..., list(vocabulary.kept)]
    np.testing.assert_allclose(logits_of(small, new), expected, atol=1e-6)


def test_paddles_own_embedding_with_padding() -> None:
    model = paddle.nn.Sequential(paddle.nn.Embedding(10, 4, padding_idx=6))
    small, vocabulary = prune_vocabulary(model, [2, 6, 9], parameters=("0.weight",))
    ids = np.array([[2, 9, 6]])
    expected = model(paddle.to_tensor(ids)).numpy()
    assert (small(paddle.to_tensor(vocabulary(ids))).numpy() == expected).all()
    assert (expected[0, 2] == 0).all()


def test_the_map(tmp_path: Path) -> None:
    vocabulary = VocabularyMap((2, 5, 9), 10, unknown=5)
    assert vocabulary([[9, 5], [2, 3]]).tolist() == [[2, 1], [0, 1]]
    assert vocabulary(np.zeros((0, 3), np.int32)).shape == (0, 3)
    vocabulary.save(tmp_path / "map.json")
    assert json.loads((tmp_path / "map.json").read_text()) == {
        "kept": [2, 5, 9],
        "old_size": 10,
        "unknown": 5,
    }
    with pytest.raises(InvalidInputError, match="3 was cut out"):
        VocabularyMap((2, 5, 9), 10)([2, 3])
    with pytest.raises(InvalidInputError, match="expected numbers from 0 to 9, got 2 to 10"):
        vocabulary([2, 10])
    with pytest.raises(InvalidDtypeError, match="expected integers, got float64"):
        vocabulary([1.0])


@pytest.mark.parametrize(
    ("keep", "options", "text"),
    [
        ([], {}, "keep: expected token ids from 0 to 59"),
        ([0, 60], {}, r"got \[0\] to \[60\]"),
        ([1, 2], {}, "expected config.pad_token_id 0 among the kept ids"),
        ([0, 2], {"unknown": 3}, "expected unknown 3 among the kept ids"),
        ([0], {"parameters": ("nothing",)}, r"expected names of parameters of the model, got \['nothing'\]"),
        (
            [0],
            {"parameters": ("encoder.embeddings.word.weight", "head.classifier.bias")},
            r"expected as many rows in each, got \[3, 60\]",
        ),
    ],
)
def test_errors(keep: list[int], options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        prune_vocabulary(bert(), keep, **options)
