"""Weights in several files, in formats that are refused, and PaddleNLP's."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from paddle_infra._core.errors import WeightError
from paddle_infra.models import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PretrainedModel,
)
from paddle_infra.models.families import FAMILIES

TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "labels": ("a", "b", "c"),
    "pooling": "pooler",
}


def tiny(model_type: str = "bert") -> BertConfig:
    return BertConfig(**TINY, model_type=model_type, use_task_id=model_type == "ernie")


def same(one: PretrainedModel, other: PretrainedModel) -> bool:
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return all(a == b and np.array_equal(x.numpy(), y.numpy()) for (a, x), (b, y) in pairs)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A model in two files, as large ones are."""
    BertModel(tiny()).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    placed = {name: files[index % 2] for index, name in enumerate(weights)}
    for file in files:
        save_file({name: weights[name] for name in weights if placed[name] == file}, tmp_path / file)
    index = {"metadata": {"total_size": 1}, "weight_map": placed}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_several_files(sharded: Path) -> None:
    whole = BertModel.from_pretrained(sharded)  # the whole file comes first
    (sharded / "model.safetensors").unlink()
    parts = BertModel.from_pretrained(sharded)
    assert same(whole, parts)
    assert parts.load_report == whole.load_report


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "expected a JSON object with weight_map, got a damaged one"),
        ("[]", "expected a JSON object with weight_map, got a damaged one"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "expected names of files beside it, got '../model.safe"),
        ('{"weight_map": {"a": "none.safetensors"}}', "none.safetensors: expected a safetensors file, but there is"),
        ('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', r"expected it to list what is in .* \['a'"),
    ],
)  # fmt: skip
def test_wrong_indices(sharded: Path, index: str, message: str) -> None:
    (sharded / "model.safetensors").unlink()
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(WeightError, match=message):
        BertModel.from_pretrained(sharded)


def test_pickles_of_pytorch_are_refused(tmp_path: Path) -> None:
    tiny().save(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(WeightError, match=r"expected model\.safetensors, got pytorch_model\.bin: a pickle"):
        BertModel.from_pretrained(tmp_path)


def paddle_names(model: PretrainedModel) -> dict[str, paddle.Tensor]:
    """Return a model's parameters as PaddleNLP calls them: written from its source, not from our table."""
    family = model.config.model_type
    pairs = (
        (r"^encoder\.embeddings\.norm", f"{family}.embeddings.layer_norm"),
        (r"^encoder\.embeddings\.(\w+)\.", rf"{family}.embeddings.\1_embeddings."),
        (r"^encoder\.stack\.layers", f"{family}.encoder.layers"),
        (r"attention\.(query|key|value)", r"self_attn.\1"),
        (r"attention\.output", "self_attn.out_proj"),
        (r"attention_norm", "norm1"),
        (r"output_norm", "norm2"),
        (r"intermediate", "linear1"),
        (r"(\d)\.output", r"\1.linear2"),
    )
    heads = {
        "encoder.pooler": f"{family}.pooler.dense",
        "head.classifier": "classifier",
        "span": "classifier",
        "transform": "cls.predictions.transform",
        "transform_norm": "cls.predictions.layer_norm",
    }
    if family == "roberta":
        heads["transform"], heads["transform_norm"] = "lm_head.dense", "lm_head.layer_norm"
        if "ForSequence" in model.architecture():
            heads["encoder.pooler"], heads["head.classifier"] = "classifier.dense", "classifier.out_proj"
    named = {}
    for name, value in model.named_parameters():
        stem, _, kind = name.rpartition(".")
        if stem in heads:
            named[f"{heads[stem]}.{kind}"] = value
            continue
        if name == "output_bias":
            named["lm_head.decoder.bias" if family == "roberta" else "cls.predictions.decoder_bias"] = value
            continue
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        for short in ("query", "key", "value"):
            name = name.replace(f"self_attn.{short}", f"self_attn.{short[0]}_proj")
        named[name] = value
    if isinstance(model, BertForMaskedLM):  # tied, and saved twice
        words = named[f"{family}.embeddings.word_embeddings.weight"]
        named["lm_head.decoder.weight" if family == "roberta" else "cls.predictions.decoder.weight"] = words
    return named


def write_paddle(model: PretrainedModel, directory: Path, name: str = "model_state.pdparams") -> None:
    model.config.save(directory, model.architecture())
    paddle.save(paddle_names(model), str(directory / name))


CLASSES = (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)


@pytest.mark.parametrize("family", ["bert", "ernie", "roberta"])
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_paddlenlp_s_files(cls: type, family: str, tmp_path: Path) -> None:
    model = cls(tiny(family))
    for parameter in model.parameters():
        parameter.set_value(paddle.randn(parameter.shape))
    write_paddle(model, tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    assert same(model, loaded)
    assert (loaded.load_report.missing, loaded.load_report.unexpected) == ((), ())


def test_a_bare_encoder_of_paddlenlp(tmp_path: Path) -> None:
    model = BertModel(tiny("ernie"))
    tiny("ernie").save(tmp_path)
    values = {name.removeprefix("ernie."): value for name, value in paddle_names(model).items()}
    paddle.save(values, str(tmp_path / "ernie_3.0_nano_zh.pdparams"))
    assert same(model, BertModel.from_pretrained(tmp_path))
    paddle.save(values, str(tmp_path / "another.pdparams"))
    with pytest.raises(WeightError, match=r"expected one \*\.pdparams, got \['another\.pdparams', 'ernie"):
        BertModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_protocols_of_paddle_save(tmp_path: Path, protocol: int) -> None:
    model = BertModel(tiny())
    write_paddle(model, tmp_path)
    paddle.save(paddle_names(model), str(tmp_path / "model_state.pdparams"), protocol=protocol)
    assert same(model, BertModel.from_pretrained(tmp_path))


def test_large_arrays_come_in_slices(tmp_path: Path) -> None:
    model = BertModel(tiny())
    write_paddle(model, tmp_path)
    name = "bert.embeddings.word_embeddings.weight"
    state = {key: value.numpy() for key, value in paddle_names(model).items()}
    flat = state.pop(name).reshape(-1)
    # As Paddle does with more than 1 GB in protocols 2 and 3.
    state[f"{name}@@.0"], state[f"{name}@@.1"] = flat[:300], flat[300:]
    slices = {"OriginShape": (50, 16), "slices": [f"{name}@@.0", f"{name}@@.1"]}
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps({**state, "UnpackBigParamInfor@@": {name: slices}}, 2))
    assert same(model, BertModel.from_pretrained(tmp_path))
    del state[f"{name}@@.1"]
    path.write_bytes(pickle.dumps({**state, "UnpackBigParamInfor@@": {name: slices}}, 2))
    with pytest.raises(WeightError, match="expected all slices of large arrays"):
        BertModel.from_pretrained(tmp_path)


def test_bfloat16_of_paddle(tmp_path: Path) -> None:
    model = BertModel(tiny())
    write_paddle(model, tmp_path)
    rounded = {name: value.astype("bfloat16") for name, value in paddle_names(model).items()}
    paddle.save(rounded, str(tmp_path / "model_state.pdparams"))
    loaded = BertModel.from_pretrained(tmp_path)
    for (name, ours), (_, theirs) in zip(loaded.named_parameters(), model.named_parameters(), strict=True):
        expected = theirs.astype("bfloat16").astype("float32").numpy()
        assert np.array_equal(ours.numpy(), expected), name


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    tiny().save(tmp_path)
    mark = tmp_path / "ran"
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps({"x": Evil(mark)}))
    with pytest.raises(
        WeightError, match=r"expected weights as paddle\.save writes them: expected arrays only, got p"
    ):
        BertModel.from_pretrained(tmp_path)
    assert not mark.exists()
    with open(path, "rb") as file:
        pickle.load(file)
    assert mark.exists(), "it would have"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected weights as paddle.save writes them"),
        (b"\x80\x04K\x05.", "expected arrays by name, got int"),
        (pickle.dumps({"x": "y"}), "expected arrays by name, got str for 'x'"),
        (pickle.dumps({"x": np.array([{}])}), "expected arrays by name, got ndarray for 'x'"),
        (
            pickle.dumps({"bert.x": np.zeros(3, np.float32)})[:-9],
            "expected weights as paddle.save writes them",
        ),
    ],
)
def test_damaged_files_of_paddle(tmp_path: Path, content: bytes, message: str) -> None:
    tiny().save(tmp_path)
    (tmp_path / "model_state.pdparams").write_bytes(content)
    with pytest.raises(WeightError, match=message):
        BertModel.from_pretrained(tmp_path)


def test_families_without_files_of_paddlenlp(tmp_path: Path) -> None:
    tiny("distilbert").save(tmp_path)
    (tmp_path / "model_state.pdparams").write_bytes(b"")
    with pytest.raises(
        WeightError, match="expected safetensors for 'distilbert'; PaddleNLP's files are read of bert, e"
    ):
        BertModel.from_pretrained(tmp_path)


def test_the_older_configuration_of_paddlenlp(tmp_path: Path) -> None:
    sizes = {name: value for name, value in TINY.items() if isinstance(value, int)}
    model = BertForSequenceClassification(tiny("ernie"))
    base = {
        **sizes,
        "use_task_id": True,
        "type_vocab_size": 2,
        "hidden_act": "relu",
        "init_class": "ErnieModel",
    }
    legacy = {"init_args": [base], "num_classes": 3, "init_class": "ErnieForSequenceClassification"}
    (tmp_path / "model_config.json").write_text(json.dumps(legacy))
    paddle.save(paddle_names(model), str(tmp_path / "model_state.pdparams"))
    loaded = BertForSequenceClassification.from_pretrained(tmp_path)
    assert same(model, loaded)
    assert (loaded.config.model_type, loaded.config.hidden_act, loaded.config.pooling) == (
        "ernie",
        "relu",
        "pooler",
    )
    assert loaded.config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    (tmp_path / "model_config.json").write_text(json.dumps({**base, "init_class": "GPTModel"}))
    with pytest.raises(WeightError, match=r"expected init_class of Bert, .*XLMRoberta, got 'GPTModel'"):
        BertModel.from_pretrained(tmp_path)
    del base["type_vocab_size"]
    (tmp_path / "model_config.json").write_text(json.dumps(base))
    assert BertConfig.load(tmp_path).type_vocab_size == 16, "PaddleNLP's default"


def test_every_family_is_described() -> None:
    for family in FAMILIES.values():
        assert set(family.layer) == set(FAMILIES["bert"].layer)
        assert set(family.masked_lm) == {"transform", "transform_norm", "output_bias"}
