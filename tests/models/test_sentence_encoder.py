"""Vectors of texts: their maths on small models, their sense on real ones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors import safe_open

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.data import Tokenizer
from paddle_infra.models import BertConfig, BertModel, SentenceEncoder
from tests.models.numpy_bert import bert_hidden_states

CONFIG = BertConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,
    initializer_range=0.3,
)


@dataclass
class Encoded:
    input_ids: list[int]


class Letters:
    """A tokenizer: one number for each letter, between 3 and 2."""

    pad_id = 1

    def encode(self, text: str, max_length: int) -> Encoded:
        return Encoded([3, *(ord(letter) % 30 + 5 for letter in text[: max_length - 2]), 2])


def made(**changes: object) -> SentenceEncoder:
    paddle.seed(0)
    return SentenceEncoder(dataclasses.replace(CONFIG, **changes))


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_vectors_are_pooled_hidden_states_of_length_1(pooling: str) -> None:
    model = made(pooling=pooling)
    model.eval()
    ids = paddle.to_tensor(np.random.default_rng(0).integers(0, 40, (3, 7)))
    mask = np.array([[1] * 7, [1] * 3 + [0] * 4, [0] * 7])
    hidden = model.encoder(ids, None, paddle.to_tensor(mask)).numpy().astype(np.float64)
    if pooling == "mean":
        expected = np.stack([hidden[0].mean(0), hidden[1, :3].mean(0)])
    elif pooling == "cls":
        expected = hidden[:2, 0]
    else:
        pooler = model.encoder.pooler
        expected = np.tanh(hidden[:2, 0] @ pooler.weight.numpy() + pooler.bias.numpy())
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    found = model(ids, attention_mask=paddle.to_tensor(mask)).numpy()
    np.testing.assert_allclose(found[:2], expected, atol=1e-6)
    if pooling == "mean":
        assert (found[2] == 0).all(), "no token at all"


def test_texts_keep_their_order_whatever_the_batches() -> None:
    model = made()
    texts = ["abc", "", "a rather long text which is cut", "xy", "abcd", "abc"]
    model.train()
    whole = model.encode(texts, Letters())
    assert model.training, "as it was"
    assert whole.shape == (6, 16)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-5)
    for size in (1, 2, 100):
        np.testing.assert_allclose(model.encode(texts, Letters(), batch_size=size), whole, atol=1e-6)
    np.testing.assert_allclose(whole[0], whole[5], atol=1e-6)
    np.testing.assert_allclose(model.encode(["c"], Letters(), prefix="ab")[0], whole[0], atol=1e-6)
    assert np.abs(model.encode(["abcd"], Letters(), max_length=4)[0] - whole[4]).max() > 1e-3
    assert model.encode([], Letters()).shape == (0, 16)


def test_no_text_is_longer_than_the_positions() -> None:
    counted = {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1}
    for changes in ({}, counted):
        vectors = made(**changes).encode(["x" * 50], Letters(), max_length=40)
        assert np.isfinite(vectors).all()


def test_wrong_arguments() -> None:
    with pytest.raises(InvalidInputError, match="expected a sequence of texts, got one: 'text'"):
        made().encode("text", Letters())
    with pytest.raises(InvalidInputError, match="batch_size: expected a positive integer, got 0"):
        made().encode(["text"], Letters(), batch_size=0)


def test_it_is_saved_as_the_bare_encoder(tmp_path: Path) -> None:
    model = made(model_type="xlm-roberta", type_vocab_size=1, pad_token_id=1)
    model.save_pretrained(tmp_path)
    assert '"XLMRobertaModel"' in (tmp_path / "config.json").read_text()
    again = SentenceEncoder.from_pretrained(tmp_path)
    assert again.load_report.missing == ()
    np.testing.assert_array_equal(again.encode(["ab"], Letters()), model.encode(["ab"], Letters()))
    assert BertModel.from_pretrained(tmp_path).load_report.missing == (
        "roberta.pooler.dense.weight",
        "roberta.pooler.dense.bias",
    )


ENGLISH = (
    ("How do I reset my password?", "I forgot my login, how can I get back into my account?"),
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch."),
    ("Shares fell sharply after the report.", "The stock lost much of its value on the news."),
    ("It will rain tomorrow.", "The forecast says wet weather for the next day."),
)
CHINESE = (
    ("怎么重置密码？", "我忘记了登录密码，如何找回账户？"),
    ("猫在沙发上睡觉。", "一只小猫正躺在沙发上打盹。"),
    ("财报公布后股价大幅下跌。", "消息传出后，该公司股票市值大量蒸发。"),
    ("明天会下雨。", "天气预报说第二天有降水。"),
)
CROSSED = tuple((english[0], chinese[0]) for english, chinese in zip(ENGLISH, CHINESE, strict=True))


def check_sense(vectors: np.ndarray, others: np.ndarray, margin: float) -> None:
    similarity = vectors @ others.T
    own = similarity.diagonal()
    rest = similarity - 9 * np.eye(len(own))
    assert (own - rest.max(axis=1)).min() > margin, similarity
    assert (own - rest.max(axis=0)).min() > margin, similarity


def test_minilm_puts_like_beside_like(minilm_dir: Path) -> None:
    model, tokenizer = SentenceEncoder.from_pretrained(minilm_dir), Tokenizer.from_pretrained(minilm_dir)
    ones, others = (model.encode(texts, tokenizer) for texts in zip(*ENGLISH, strict=True))
    check_sense(ones, others, 0.2)


@pytest.fixture(scope="module")
def e5(e5_dir: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(e5_dir)


@pytest.mark.parametrize("pairs", [ENGLISH, CHINESE, CROSSED], ids=["english", "chinese", "both"])
def test_e5_puts_like_beside_like(e5: SentenceEncoder, e5_dir: Path, pairs: tuple) -> None:
    tokenizer = Tokenizer.from_pretrained(e5_dir)
    ones, others = (e5.encode(texts, tokenizer, prefix="query: ") for texts in zip(*pairs, strict=True))
    check_sense(ones, others, 0.02)  # E5's similarities are all between 0.7 and 1


def test_e5_agrees_with_an_independent_forward(e5: SentenceEncoder, e5_dir: Path) -> None:
    assert (e5.load_report.missing, e5.load_report.unexpected, len(e5.load_report.loaded)) == ((), (), 197)
    tokenizer = Tokenizer.from_pretrained(e5_dir)
    rows = [tokenizer.encode(text).input_ids for text in ("query: 今天天气很好。", "passage: It will rain.")]
    ids = np.ones((2, max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    with safe_open(e5_dir / "model.safetensors", framework="np") as file:
        words = file.get_slice("embeddings.word_embeddings.weight")
        used = np.unique(ids)
        weights = {name: file.get_tensor(name) for name in file.keys() if "word_embeddings" not in name}  # noqa: SIM118
        weights["embeddings.word_embeddings.weight"] = np.concatenate(
            [words[i : i + 1] for i in used.tolist()]
        )
    gold = bert_hidden_states(
        weights, np.searchsorted(used, ids), np.zeros_like(ids), mask, num_layers=12, num_heads=12
    )
    e5.eval()
    with paddle.no_grad():
        ours = e5.encoder(paddle.to_tensor(ids), None, paddle.to_tensor(mask)).numpy()
    real = mask.astype(bool)
    assert np.abs(gold[real]).mean() > 0.1
    assert np.abs(ours - gold)[real].max() < 1e-5
