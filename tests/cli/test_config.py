from __future__ import annotations

from pathlib import Path

import pytest

from paddle_infra._core.errors import ConfigError
from paddle_infra.cli.config import RunConfig, load_config
from paddle_infra.cli.demo import demo_config

MINIMAL = "data: {train: train.csv}\n"


def load(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def test_defaults_and_overrides(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL, "training.epochs=7", "model.dropout=0", "export.targets=[onnx]")
    assert (config.training.epochs, config.model.dropout, config.export.targets) == (7, 0.0, ("onnx",))
    assert config.training.batch_size == RunConfig().training.batch_size


def test_a_saved_configuration_is_the_same(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL, "title=Größe", "seed=3")
    config.save(tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL, "training.learning_rate=1e-4").training.learning_rate == 1e-4
    assert load(tmp_path, MINIMAL, "training.weight_decay=0").training.weight_decay == 0.0


def test_the_demo_s_configuration_is_valid() -> None:
    assert demo_config([]).model.pretrained == "minilm-l6"
    assert load_config(Path(__file__).parents[2] / "examples/ner_conll2003.yaml").data.word_shapes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping of keys, got an empty file"),
        ("- 1\n", "expected a mapping of keys, got"),
        ("a: [1\n", "expected YAML, got"),
        ("trainning: {}\n" + MINIMAL, r"unknown key trainning; did you mean training\?"),
        (MINIMAL + "model: {droput: 0}\n", r"unknown key model.droput; did you mean model.dropout\?"),
        (MINIMAL + "xyz: 1\n", r"unknown key xyz; expected one of \['data',"),
        (MINIMAL + "model: 3\n", "model: expected a section with keys, got 3"),
        (MINIMAL + "seed: one\n", r"seed: expected a whole number, got 'one' \(str\)"),
        (MINIMAL + "seed: true\n", r"seed: expected a whole number, got True \(bool\)"),
        (MINIMAL + "title:\n", "title: expected a string, got nothing"),
        (
            MINIMAL + "training: {learning_rate: fast}\n",
            "training.learning_rate: expected a number, got 'fast'",
        ),
        (MINIMAL + "training: {epochs: 0}\n", "training.epochs: expected a number from 1 to .*, got 0"),
        (MINIMAL + "task: tagging\n", "task: expected one of .*, got 'tagging'"),
        (MINIMAL + "export: {targets: [tensorrt]}\n", "export.targets: expected one of .*, got 'tensorrt'"),
        (MINIMAL + "export: {targets: onnx}\n", "export.targets: expected a list of strings, got 'onnx'"),
        (MINIMAL + "export: {opset: 22}\n", "export.opset: expected a number from 7 to 21, got 22"),
        ("data: {format: csv, train: a}\n", "data.format: expected one of .*, got 'csv'"),
        ("data: {train: a, format: conll}\n", "expected 'conll' exactly for token_classification"),
        ("data: {train: a, delimiter: ''}\n", "data.delimiter: expected one character, got ''"),
        (
            "task: sequence_classification\n",
            "data.train: expected a file or resource-name:member, got nothing",
        ),
    ],
)
def test_wrong_configurations(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "expected an override like training.epochs=2, got 'training.epochs'"),
        ("seed.x=1", "seed is not a section"),
        ("seed=[", "expected a YAML value"),
        ("training.epoch=1", r"unknown key training.epoch; did you mean training.epochs\?"),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "seed: 1\n" + MINIMAL, override)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"none.yaml: expected a configuration file, but there is no such file"
    ):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="expected a configuration file, got a folder"):
        load_config(tmp_path)
