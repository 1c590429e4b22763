"""Each family of encoders against NumPy in float64, with the field's names; padding; static programs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from paddle_infra._core.errors import InvalidInputError, WeightError
from paddle_infra.models import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PretrainedModel,
    SentenceEncoder,
)
from paddle_infra.models.encoder import counted_positions
from paddle_infra.models.families import FAMILIES
from tests.models.numpy_bert import bert_hidden_states

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 22,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "labels": ("a", "b", "c"),
    "pooling": "pooler",
    "initializer_range": 0.3,
}
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "distilbert": BertConfig(**SIZES, model_type="distilbert"),
    "ernie": BertConfig(**SIZES, model_type="ernie", use_task_id=True, type_vocab_size=4, task_id=2),
    "roberta": BertConfig(**SIZES, model_type="roberta", type_vocab_size=1, pad_token_id=1),
    "xlm-roberta": BertConfig(**SIZES, model_type="xlm-roberta", type_vocab_size=1, pad_token_id=1),
}
MODELS = (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    SentenceEncoder,
)
each_family = pytest.mark.parametrize("family", CONFIGS)
each_model = pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)


def made(cls: type, family: str, **changes: object) -> PretrainedModel:
    paddle.seed(3)
    model = cls(dataclasses.replace(CONFIGS[family], **changes))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms and biases, which would be ones and zeros
            parameter.set_value(parameter + 0.3 * paddle.randn(parameter.shape))
        assert not parameter.stop_gradient, name
    model.eval()
    return model


def batch(extra: int = 0, seed: int = 0) -> dict[str, paddle.Tensor]:
    """Return three rows of 9, 5 and 1 tokens, and ``extra`` places of padding, filled with anything."""
    rng = np.random.default_rng(seed)
    input_ids = rng.integers(3, 50, (3, 9))
    mask = (np.arange(9) < np.array([[9], [5], [1]])).astype(np.int64)
    input_ids = np.concatenate([input_ids, np.random.default_rng(extra).integers(0, 50, (3, extra))], axis=1)
    mask = np.pad(mask, ((0, 0), (0, extra)))
    return {"input_ids": paddle.to_tensor(input_ids), "attention_mask": paddle.to_tensor(mask)}


def bare_bert_weights(model: BertModel, directory: Path) -> dict[str, np.ndarray]:
    """Return what was saved, in the names of a bare BERT, whatever the family."""
    model.save_pretrained(directory)
    family = model.config.family
    weights = {}
    for name, value in load_file(directory / "model.safetensors").items():
        short = name.removeprefix(family.prefix).replace(family.stack + ".", "encoder.layer.")
        for ours, theirs in family.layer.items():
            if short.startswith("encoder.layer.") and f".{theirs}." in short:
                short = short.replace(f".{theirs}.", f".{FAMILIES['bert'].layer[ours]}.")
                break
        weights[short] = value
    return weights


@each_family
def test_hidden_states_agree_with_numpy(family: str, tmp_path: Path) -> None:
    model = made(BertModel, family)
    weights = bare_bert_weights(model, tmp_path)
    inputs = batch()
    ids, mask = (inputs[name].numpy() for name in ("input_ids", "attention_mask"))
    types = np.zeros_like(ids)
    # What sets the families apart, done to BERT's tables.
    if family == "distilbert":
        weights["embeddings.token_type_embeddings.weight"] = np.zeros((1, 16), np.float32)
    elif family == "ernie":
        weights["embeddings.token_type_embeddings.weight"] += weights[
            "embeddings.task_type_embeddings.weight"
        ][2]
        types = ids % 4
        inputs["token_type_ids"] = paddle.to_tensor(types)
    elif family in ("roberta", "xlm-roberta"):  # the first token's row is that of padding, plus one
        table = "embeddings.position_embeddings.weight"
        weights[table] = weights[table][2:]
    gold = bert_hidden_states(weights, ids, types, mask, num_layers=2, num_heads=4)
    with paddle.no_grad():
        ours = model(**inputs).numpy()
    real = mask.astype(bool)
    assert np.abs(gold[real]).mean() > 0.3
    np.testing.assert_allclose(ours[real], gold[real], atol=2e-6, rtol=2e-5)


def test_given_tasks_have_their_embeddings(tmp_path: Path) -> None:
    model = made(BertModel, "ernie")
    weights = bare_bert_weights(model, tmp_path)
    inputs = batch()
    ids, mask = (inputs[name].numpy() for name in ("input_ids", "attention_mask"))
    types, tasks = ids % 4, ids % 3
    sums = weights["embeddings.token_type_embeddings.weight"][types]
    sums = sums + weights["embeddings.task_type_embeddings.weight"][tasks]
    # One row of the table for every place.
    weights["embeddings.token_type_embeddings.weight"] = sums.reshape(-1, 16)
    gold = bert_hidden_states(
        weights, ids, np.arange(ids.size).reshape(ids.shape), mask, num_layers=2, num_heads=4
    )
    tensors = {"token_type_ids": paddle.to_tensor(types), "task_type_ids": paddle.to_tensor(tasks)}
    ours = model(**inputs, **tensors)
    real = mask.astype(bool)
    np.testing.assert_allclose(ours.numpy()[real], gold[real], atol=2e-6, rtol=2e-5)
    (ours * paddle.to_tensor(mask).unsqueeze(-1).astype("float32")).sum().backward()
    gradient = model.encoder.embeddings.task_type.weight.grad.numpy()
    assert (np.abs(gradient).max(axis=1) > 0).all()
    tensors["task_type_ids"] = paddle.full_like(tensors["token_type_ids"], 2)
    np.testing.assert_allclose(
        model(**inputs, **tensors).numpy(),
        model(**inputs, token_type_ids=tensors["token_type_ids"]).numpy(),
        atol=1e-6,
    )


def test_tasks_that_there_are_not() -> None:
    ids = batch()["input_ids"]
    with pytest.raises(InvalidInputError, match=r"expected numbers in \[0, 3\), got 3 to 3"):
        made(BertModel, "ernie")(ids, task_type_ids=paddle.full_like(ids, 3))
    with pytest.raises(InvalidInputError, match="expected None, there are no task embeddings"):
        made(BertModel, "bert")(ids, task_type_ids=paddle.zeros_like(ids))


def test_token_types_of_a_family_without_are_not_used() -> None:
    model, inputs = made(BertModel, "distilbert"), batch()
    plain = model(**inputs).numpy()
    given = model(**inputs, token_type_ids=paddle.ones_like(inputs["input_ids"])).numpy()
    assert np.array_equal(plain, given)


def test_counted_positions() -> None:
    ids = paddle.to_tensor([[5, 6, 1, 7, 1, 1], [1, 1, 5, 6, 7, 9]])
    expected = [[2, 3, 1, 4, 1, 1], [1, 1, 2, 3, 4, 5]]
    assert counted_positions(ids, None, 1).numpy().tolist() == expected
    mask = paddle.to_tensor([[1, 1, 0, 1, 0, 0], [0, 0, 1, 1, 1, 0]])
    expected[1][5] = 1  # hidden: it may be anything
    assert counted_positions(ids, mask, 1).numpy().tolist() == expected


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_padding_on_either_side_of_families_that_count(family: str) -> None:
    model, tokens = made(BertModel, family), [5, 9, 7]
    right = paddle.to_tensor([[*tokens, 1, 1]])
    left = paddle.to_tensor([[1, 1, *tokens]])
    ours = [model(ids, attention_mask=(ids != 1).astype("int64")).numpy() for ids in (left, right)]
    np.testing.assert_allclose(ours[0][:, 2:], ours[1][:, :3], atol=1e-6)


def outputs(model: PretrainedModel, inputs: dict[str, paddle.Tensor]) -> list[paddle.Tensor]:
    """Return what a model computes of real tokens: 9 places at most."""
    found = model(**inputs)
    found = list(found) if isinstance(found, tuple) else [found]
    if isinstance(model, SentenceEncoder | BertForSequenceClassification):
        return found
    real = inputs["attention_mask"][:, :9].astype("float32")
    return [value[:, :9] * real.reshape([3, 9] + [1] * (value.ndim - 2)) for value in found]


@each_model
@each_family
def test_padding_changes_nothing(family: str, cls: type) -> None:
    model = made(cls, family)
    results = []
    for extra in (0, 1, 7):
        found = outputs(model, batch(extra))
        sum((value * paddle.cos(value.detach())).sum() for value in found).backward()
        gradients = {
            name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None
        }
        model.clear_gradients()
        results.append(([value.numpy() for value in found], gradients))
    (values, gradients), *others = results
    assert len(gradients) >= 30
    for other_values, other_gradients in others:
        for value, other in zip(values, other_values, strict=True):
            np.testing.assert_allclose(other, value, atol=3e-6)
        for name, gradient in gradients.items():
            scale = max(1.0, float(np.abs(gradient).max()))
            np.testing.assert_allclose(
                other_gradients[name], gradient, atol=1e-5 * scale, err_msg=f"{family} {name}"
            )


NAMES = {
    "bert": (
        "bert.embeddings.token_type_embeddings.weight",
        "bert.encoder.layer.1.attention.self.query.weight",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.bias",
    ),
    "distilbert": (
        "distilbert.embeddings.LayerNorm.bias",
        "distilbert.transformer.layer.1.attention.q_lin.weight",
        "distilbert.transformer.layer.0.ffn.lin2.weight",
        "vocab_projector.bias",
    ),
    "ernie": (
        "ernie.embeddings.task_type_embeddings.weight",
        "ernie.encoder.layer.1.output.LayerNorm.bias",
        "cls.predictions.transform.dense.weight",
    ),
    "roberta": (
        "roberta.encoder.layer.0.intermediate.dense.weight",
        "lm_head.layer_norm.weight",
        "lm_head.bias",
    ),
    "xlm-roberta": ("roberta.embeddings.word_embeddings.weight", "lm_head.dense.bias"),
}
CLASSIFIER = {
    "bert": {"bert.pooler.dense.weight": (16, 16), "classifier.weight": (3, 16)},
    "distilbert": {"pre_classifier.weight": (16, 16), "classifier.weight": (3, 16)},
    "ernie": {"ernie.pooler.dense.weight": (16, 16), "classifier.weight": (3, 16)},
    "roberta": {"classifier.dense.weight": (16, 16), "classifier.out_proj.weight": (3, 16)},
    "xlm-roberta": {"classifier.dense.weight": (16, 16), "classifier.out_proj.bias": (3,)},
}


@each_family
def test_saved_names_are_the_family_s(family: str, tmp_path: Path) -> None:
    made(BertForMaskedLM, family).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert set(NAMES[family]) <= set(stored)
    made(BertForSequenceClassification, family).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {name: stored[name].shape for name in CLASSIFIER[family]} == CLASSIFIER[family]
    made(BertForQuestionAnswering, family).save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["qa_outputs.weight"].shape == (2, 16)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == family
    assert config["architectures"] == [f"{FAMILIES[family].class_prefix}ForQuestionAnswering"]
    assert config["dim" if family == "distilbert" else "hidden_size"] == 16


@each_model
@each_family
def test_save_and_load_give_the_same_model(family: str, cls: type, tmp_path: Path) -> None:
    model = made(cls, family)
    model.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    assert loaded.load_report.missing == ()
    assert loaded.load_report.unexpected == ()
    expected = model.config
    if family == "distilbert":  # its own rate before a classifier is always written
        expected = dataclasses.replace(expected, classifier_dropout=0.0)
    assert loaded.config == expected
    loaded.eval()
    for one, other in zip(outputs(model, batch()), outputs(loaded, batch()), strict=True):
        assert np.array_equal(one.numpy(), other.numpy())


@each_family
def test_a_head_starts_from_a_bare_encoder(family: str, tmp_path: Path) -> None:
    encoder = made(BertModel, family)
    encoder.save_pretrained(tmp_path)
    prefix = FAMILIES[family].prefix
    path = tmp_path / "model.safetensors"
    save_file({name.removeprefix(prefix): value for name, value in load_file(path).items()}, path)
    tagger = BertForTokenClassification.from_pretrained(tmp_path, labels=("O", "B"))
    assert tagger.load_report.missing == ("classifier.weight", "classifier.bias")
    assert set(tagger.load_report.unexpected) <= {"pooler.dense.weight", "pooler.dense.bias"}
    for name, value in tagger.encoder.named_parameters():
        assert np.array_equal(value.numpy(), dict(encoder.encoder.named_parameters())[name].numpy())
    words = BertForMaskedLM.from_pretrained(tmp_path)
    assert len(words.load_report.missing) == 5


def test_old_names_of_norms(tmp_path: Path) -> None:
    model = made(BertForMaskedLM, "bert")
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    old = {}
    for name, value in load_file(path).items():
        stem, _, kind = name.rpartition(".")
        is_norm = stem.endswith("LayerNorm")
        old[f"{stem}.{ {'weight': 'gamma', 'bias': 'beta'}[kind] }" if is_norm else name] = value
    old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].copy()
    old["bert.embeddings.position_ids"] = np.arange(22)
    save_file(old, path)
    assert "bert.encoder.layer.1.output.LayerNorm.gamma" in old
    loaded = BertForMaskedLM.from_pretrained(tmp_path)
    assert (loaded.load_report.missing, loaded.load_report.unexpected) == ((), ())
    for (name, one), (_, other) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert np.array_equal(one.numpy(), other.numpy()), name


@each_family
def test_poolers(family: str) -> None:
    model = made(BertModel, family)
    hidden = model(batch()["input_ids"])
    if family == "distilbert":
        with pytest.raises(
            InvalidInputError, match="expected an encoder with a pooler, got model_type='distilbert'"
        ):
            model.pool(hidden)
        return
    pooler = model.encoder.pooler
    expected = np.tanh(hidden.numpy()[:, 0].astype(np.float64) @ pooler.weight.numpy() + pooler.bias.numpy())
    np.testing.assert_allclose(model.pool(hidden).numpy(), expected, atol=1e-6)
    assert "encoder.pooler.weight" not in dict(made(BertModel, family, has_pooler=False).named_parameters())


@each_family
def test_masked_words(family: str) -> None:
    model, inputs = made(BertForMaskedLM, family), batch()
    logits = model(**inputs).numpy().astype(np.float64)
    assert logits.shape == (3, 9, 50)
    log_prob = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    labels = np.full((3, 9), -100)
    labels[0, 3], labels[1, 2] = 7, 49
    loss = model.loss(**inputs, labels=paddle.to_tensor(labels))
    np.testing.assert_allclose(float(loss), -(log_prob[0, 3, 7] + log_prob[1, 2, 49]) / 2, rtol=1e-5)
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    probability, index = model.topk(**inputs, k=3)
    order = np.argsort(-logits, axis=-1)[..., :3]
    assert np.array_equal(index.numpy(), order)
    np.testing.assert_allclose(
        probability.numpy(), np.exp(np.take_along_axis(log_prob, order, -1)), rtol=1e-4, atol=1e-7
    )


def test_masked_words_need_a_tied_matrix() -> None:
    with pytest.raises(WeightError, match="tie_word_embeddings: expected True, got False"):
        made(BertForMaskedLM, "bert", tie_word_embeddings=False)


def test_answers() -> None:
    model, inputs = made(BertForQuestionAnswering, "bert"), batch()
    start, end = (value.numpy().astype(np.float64) for value in model(**inputs))
    mask = inputs["attention_mask"].numpy().astype(bool)
    assert (start[~mask] == np.float32(-1e9)).all()
    assert (np.abs(start[mask]) < 100).all()
    positions = {"start_positions": [4, -100, 0], "end_positions": [8, -100, -100]}
    loss = model.loss(**inputs, **{name: paddle.to_tensor(value) for name, value in positions.items()})

    def cross_entropy(logits: np.ndarray, wanted: list[int]) -> float:
        rows = [row for row, place in enumerate(wanted) if place >= 0]
        return float(np.mean([np.log(np.exp(logits[row]).sum()) - logits[row, wanted[row]] for row in rows]))

    expected = (cross_entropy(start, [4, -1, 0]) + cross_entropy(end, [8, -1, -1])) / 2
    np.testing.assert_allclose(float(loss), expected, rtol=1e-5)
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    nothing = paddle.full([3], -100, dtype="int64")
    assert float(model.loss(**inputs, start_positions=nothing, end_positions=nothing)) == 0.0


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_inner_layer_of_a_classifier(family: str) -> None:
    model, inputs = made(BertForSequenceClassification, family), batch()
    first = (
        model.encoder(inputs["input_ids"], None, inputs["attention_mask"]).numpy()[:, 0].astype(np.float64)
    )
    dense = first @ model.encoder.pooler.weight.numpy() + model.encoder.pooler.bias.numpy()
    dense = np.maximum(dense, 0) if family == "distilbert" else np.tanh(dense)
    expected = dense @ model.head.classifier.weight.numpy() + model.head.classifier.bias.numpy()
    np.testing.assert_allclose(model(**inputs).numpy(), expected, atol=1e-5)


def test_the_dropout_inside_roberta_s_classifier() -> None:
    model = made(BertForSequenceClassification, "roberta", classifier_dropout=0.999)
    model.train()
    features = model.features(batch()["input_ids"], None, None).numpy()
    bias = np.tanh(model.encoder.pooler.bias.numpy())
    assert (np.isclose(features, bias, atol=1e-6).all(axis=1)).any(), "a first token of which nothing is left"


@pytest.mark.parametrize(
    ("family", "cls"),
    [(family, BertModel) for family in CONFIGS]
    + [("roberta", cls) for cls in MODELS if cls is not BertModel],
)
def test_saved_programs_take_any_batch_and_length(family: str, cls: type, tmp_path: Path) -> None:
    model = made(cls, family)
    spec = [paddle.static.InputSpec([None, None], "int64", name) for name in ("input_ids", "attention_mask")]

    class Exported(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: paddle.Tensor, attention_mask: paddle.Tensor) -> paddle.Tensor:
            return self.model(input_ids, attention_mask=attention_mask)

    exported = Exported()
    exported.eval()
    paddle.jit.save(exported, str(tmp_path / "model"), input_spec=spec)
    loaded = paddle.jit.load(str(tmp_path / "model"))
    for extra, rows in ((0, 3), (5, 2)):
        inputs = {name: value[:rows] for name, value in batch(extra).items()}
        expected, got = model(**inputs), loaded(inputs["input_ids"], inputs["attention_mask"])
        pairs = zip(expected, got, strict=True) if isinstance(expected, tuple) else [(expected, got)]
        real = inputs["attention_mask"].numpy().astype(bool)
        for one, other in pairs:
            one, other = one.numpy(), other.numpy()
            if one.shape[:2] == real.shape:
                one, other = one[real], other[real]
            np.testing.assert_allclose(other, one, atol=2e-5)


class Training(paddle.nn.Layer):
    def __init__(self, model: PretrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: paddle.Tensor, mask: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        return self.model.loss(input_ids, attention_mask=mask, labels=labels)


@pytest.mark.parametrize("family", ["ernie", "roberta"])
def test_training_as_a_static_program(family: str) -> None:
    losses = []
    for is_static in (False, True):
        model = made(BertForMaskedLM, family)
        step = Training(model)
        step = paddle.jit.to_static(step, full_graph=True) if is_static else step
        step.train()
        optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
        seen = []
        for extra in (0, 3):
            inputs = batch(extra)
            ignored = paddle.full_like(inputs["input_ids"], -100)
            labels = paddle.where(inputs["attention_mask"] != 0, inputs["input_ids"], ignored)
            loss = step(inputs["input_ids"], inputs["attention_mask"], labels)
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            seen.append(float(loss))
        losses.append(seen)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def write_config(directory: Path, **values: object) -> None:
    (directory / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"architectures": ["BertForSequenceClassification"]}, {"labels": ("LABEL_0", "LABEL_1"), "pooling": "pooler"}),
        ({"architectures": ["BertForTokenClassification"], "num_labels": 3}, {"pooling": "mean"}),
        ({"architectures": ["BertModel"]}, {"labels": (), "pooling": "mean", "pad_token_id": 0}),
        ({"model_type": "roberta", "pad_token_id": None}, {"pad_token_id": 1}),
        ({"hidden_act": "gelu_pytorch_tanh"}, {"activation": "gelu_new"}),
        ({"hidden_act": "swish"}, {"activation": "silu"}),
        ({"model_type": "distilbert", "dim": 32, "hidden_dim": 64, "activation": "relu", "dropout": 0},
         {"hidden_size": 32, "intermediate_size": 64, "activation": "relu", "hidden_dropout_prob": 0.0}),
        ({"model_type": "distilbert", "seq_classif_dropout": 0.25}, {"head_dropout": 0.25}),
        ({"id2label": {"10": "k", "2": "c"}}, {"labels": ("c", "k")}),
    ],
)  # fmt: skip
def test_configurations_of_others(tmp_path: Path, values: dict, expected: dict) -> None:
    write_config(tmp_path, **values)
    config = BertConfig.load(tmp_path)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "quick_gelu"}, r"hidden_act must be one of \('gelu', .*, got 'quick_gelu'"),
        (
            {"position_embedding_type": "relative_key"},
            "expected position_embedding_type 'absolute', got 'relative_key'",
        ),
        ({"is_decoder": True}, "expected is_decoder False, got True"),
        ({"use_task_id": True, "task_id": 3}, r"task_id must be in \[0, 3\), got 3"),
        ({"hidden_size": "768"}, "hidden_size: expected int, got '768'"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, values: dict, message: str) -> None:
    write_config(tmp_path, **values)
    with pytest.raises(WeightError, match=message):
        BertConfig.load(tmp_path)


def test_the_tokenizer_goes_along(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    made(BertModel, "bert").save_pretrained(first)
    (first / "tokenizer.json").write_text("{}")
    (first / "vocab.txt").write_text("x")
    model = BertModel.from_pretrained(first)
    (first / "vocab.txt").unlink()  # it was read
    model.save_pretrained(second)
    assert sorted(path.name for path in second.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "vocab.txt",
    ]  # fmt: skip
    assert (second / "vocab.txt").read_text() == "x"
    third.mkdir()
    (third / "tokenizer.json").write_text("[1]")
    model.save_pretrained(third)
    assert (third / "tokenizer.json").read_text() == "[1]", "the user's own stays"
    assert not (third / "vocab.txt").exists()
