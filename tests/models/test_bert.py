from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from paddle_infra._core.errors import InvalidInputError, WeightError
from paddle_infra.data import PaddingCollator, Tokenizer
from paddle_infra.models import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from tests.models.numpy_bert import bert_hidden_states

TINY = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=12,
    labels=("a", "b", "c"),
)
TEXTS = [
    "How did serfdom develop in and then leave Russia ?",
    "A much shorter one .",
    "Naïve café: 3,000 m²!",
]


def batch_of(directory: Path) -> dict[str, np.ndarray]:
    tokenizer = Tokenizer.from_pretrained(directory)
    encodings = [tokenizer.encode(text, 64) for text in TEXTS]
    samples = [{"input_ids": e.input_ids, "token_type_ids": e.token_type_ids} for e in encodings]
    return PaddingCollator(tokenizer.pad_id)(samples)


def tensors(batch: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    return {name: paddle.to_tensor(value) for name, value in batch.items()}


def tiny_batch(batch_size: int = 3, length: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.ones((batch_size, length), np.int64)
    mask[1, length // 2 :] = 0
    return {
        "input_ids": rng.integers(0, TINY.vocab_size, (batch_size, length)),
        "token_type_ids": rng.integers(0, 2, (batch_size, length)),
        "attention_mask": mask,
    }


def test_real_weights_agree_with_an_independent_forward(minilm_dir: Path) -> None:
    batch = batch_of(minilm_dir)
    gold = bert_hidden_states(
        load_file(minilm_dir / "model.safetensors"), **batch, num_layers=6, num_heads=12
    )
    model = BertModel.from_pretrained(minilm_dir)
    model.eval()
    with paddle.no_grad():
        ours = model(**tensors(batch)).numpy()
    real = batch["attention_mask"].astype(bool)
    assert np.abs(ours - gold)[real].max() < 1e-4
    assert np.abs(gold[real]).mean() > 0.1, "the comparison is of values that are not all near zero"


def test_real_weights_are_all_used(minilm_dir: Path) -> None:
    report = BertModel.from_pretrained(minilm_dir).load_report
    assert report.missing == ()
    assert report.unexpected == ()
    assert len(report.loaded) == 103
    tagger = BertForTokenClassification.from_pretrained(minilm_dir, labels=("O", "B-X"))
    assert tagger.load_report.missing == ("classifier.weight", "classifier.bias")
    assert tagger.load_report.unexpected == ("pooler.dense.bias", "pooler.dense.weight")


@pytest.mark.parametrize("cls", [BertForSequenceClassification, BertForTokenClassification])
def test_padding_changes_nothing(cls: type) -> None:
    paddle.seed(0)
    model = cls(TINY)
    model.eval()
    batch = tiny_batch()
    padded = {name: np.pad(value, ((0, 0), (0, 5))) for name, value in batch.items()}
    padded["input_ids"][:, 7:] = 9  # whatever stands in the padding
    with paddle.no_grad():
        short, long = model(**tensors(batch)).numpy(), model(**tensors(padded)).numpy()
    if cls is BertForTokenClassification:
        real = batch["attention_mask"].astype(bool)
        short, long = short[real], long[:, :7][real]
    np.testing.assert_allclose(long, short, atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
def test_loss_is_the_cross_entropy_of_the_logits(pooling: str) -> None:
    paddle.seed(0)
    config = BertConfig(**{**TINY.__dict__, "pooling": pooling, "hidden_dropout_prob": 0.0})
    model = BertForSequenceClassification(config)
    model.eval()
    batch, labels = tensors(tiny_batch()), paddle.to_tensor([0, 2, -100])
    loss = model.loss(**batch, labels=labels)
    # Paddle's own mean divides by all rows, also the ignored ones, unless ignore_index >= 0: give it the valid rows.
    expected = paddle.nn.functional.cross_entropy(model(**batch)[:2], labels[:2])
    np.testing.assert_allclose(float(loss), float(expected), rtol=1e-5)
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("cls", [BertModel, BertForSequenceClassification, BertForTokenClassification])
def test_save_and_load_give_the_same_model(cls: type, tmp_path: Path) -> None:
    model = cls(TINY)
    model.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert loaded.load_report.missing == ()
    assert loaded.load_report.unexpected == ()
    for (name, a), (_, b) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert np.array_equal(a.numpy(), b.numpy()), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_saved_names_and_layout_are_the_checkpoint_s(tmp_path: Path) -> None:
    BertForSequenceClassification(TINY).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["classifier.weight"].shape == (3, 16)
    assert stored["bert.encoder.layer.1.intermediate.dense.weight"].shape == (24, 16)
    assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {"0": "a", "1": "b", "2": "c"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    BertModel(TINY).save_pretrained(tmp_path)
    return tmp_path


def edit(directory: Path, change: dict[str, np.ndarray | None]) -> None:
    path = directory / "model.safetensors"
    values = {**load_file(path), **change}
    save_file({name: value for name, value in values.items() if value is not None}, path)


NAME = "bert.encoder.layer.0.output.dense.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NAME: None}, rf"expected \d+ parameters, 1 are missing: {NAME}"),
        (
            {NAME: np.zeros((16, 25), np.float32)},
            r"expected shape \[24, 16\] \(Paddle layout\), got \[25, 16\]",
        ),
        ({NAME: np.zeros((16, 24), np.int64)}, "expected a floating-point dtype, got int64"),
        ({NAME: np.full((16, 24), np.nan, np.float32)}, "expected finite values, got NaN"),
    ],
)
def test_weights_that_do_not_fit(saved: Path, change: dict, message: str) -> None:
    edit(saved, change)
    with pytest.raises(WeightError, match=message):
        BertModel.from_pretrained(saved)


def test_a_failed_load_changes_nothing(saved: Path) -> None:
    from paddle_infra.models.pretrained import load_weights

    edit(saved, {"bert.embeddings.LayerNorm.bias": np.zeros(3, np.float32)})
    model = BertModel(TINY)
    before = [p.numpy().copy() for p in model.parameters()]
    with pytest.raises(WeightError, match=r"LayerNorm\.bias"):
        load_weights(model, saved)
    assert all(np.array_equal(a, p.numpy()) for a, p in zip(before, model.parameters(), strict=True))


def test_new_token_types_start_as_copies_of_type_0(saved: Path) -> None:
    model = BertModel.from_pretrained(saved, type_vocab_size=5)
    model.eval()
    stored = load_file(saved / "model.safetensors")["bert.embeddings.token_type_embeddings.weight"]
    table = model.encoder.embeddings.token_type.weight.numpy()
    assert np.array_equal(table[:2], stored)
    assert all(np.array_equal(row, stored[0]) for row in table[2:])
    with pytest.raises(WeightError, match=r"expected shape \[1, 16\] \(Paddle layout\), got \[2, 16\]"):
        BertModel.from_pretrained(saved, type_vocab_size=1)


def test_unexpected_names_are_reported(saved: Path) -> None:
    edit(saved, {"extra.weight": np.zeros(1, np.float32)})
    assert BertModel.from_pretrained(saved).load_report.unexpected == ("extra.weight",)


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_truncated_weights(saved: Path, size: int) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(WeightError, match="expected a complete safetensors file, got a damaged one"):
        BertModel.from_pretrained(saved)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match=r"config.json: expected a model configuration"):
        BertModel.from_pretrained(tmp_path)
    TINY.save(tmp_path, "BertModel")
    with pytest.raises(WeightError, match=r"model.safetensors: expected a safetensors file"):
        BertModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "expected JSON"), ('{"model_type": "gpt2"}', "expected model_type 'bert' or .*, got 'gpt2'")],
)
def test_wrong_configuration(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightError, match=message):
        BertModel.from_pretrained(tmp_path)


def test_fine_labels(tmp_path: Path) -> None:
    fine = ("a:x", "c:y", "a:z", "b:x")
    model = BertForSequenceClassification(BertConfig(**{**TINY.__dict__, "fine_labels": fine}))
    assert model.config.label_groups == (0, 2, 0, 1)
    model.save_pretrained(tmp_path)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config == model.config
    model.eval(), loaded.eval()
    logits = [m(**tensors(tiny_batch())).numpy() for m in (model, loaded)]
    assert logits[0].shape == (3, 3)
    assert np.array_equal(*logits)
    with pytest.raises(
        WeightError, match=r"fine_labels: expected names that begin with each of \['a', 'b', 'c'\]"
    ):
        BertConfig(**{**TINY.__dict__, "fine_labels": ("a:x", "b:y")})


def test_a_classifier_needs_labels() -> None:
    with pytest.raises(InvalidInputError, match=r"at least 2 labels, got \[\]"):
        BertForSequenceClassification(BertConfig(**{**TINY.__dict__, "labels": ()}))


def test_a_few_steps_learn() -> None:
    paddle.seed(1)
    model = BertForTokenClassification(TINY)
    batch = tensors(tiny_batch())
    labels = paddle.to_tensor(tiny_batch()["input_ids"] % 3)
    optimizer = paddle.optimizer.AdamW(5e-3, parameters=model.parameters())
    losses = []
    for _ in range(60):
        loss = model.loss(**batch, labels=labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
