"""The configuration of a run: YAML in, checked dataclasses out, and back into YAML beside the run's results."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from paddle_infra._core.atomic import write_text
from paddle_infra._core.errors import ConfigError

TASKS = ("sequence_classification", "token_classification")
FORMATS = ("delimited", "jsonl", "conll", "question_labels")
TARGETS = ("inference", "onnx")

_Section = TypeVar("_Section")


@dataclass(frozen=True)
class ModelConfig:
    """Which encoder to start from, and what to change in it."""

    pretrained: str = "minilm-l6"  # a resource's name, or a folder with config.json and model.safetensors
    pooling: str = "mean"  # sequence classification: cls, mean or pooler
    dropout: float = 0.1
    attention_dropout: float = 0.1


@dataclass(frozen=True)
class DataConfig:
    """Where the examples are. A file is a path, or ``resource-name:member``."""

    train: str = ""
    validation: str = ""  # empty: a part of train
    test: str = ""  # empty: a part of train
    format: str = "delimited"
    text: str = "text"  # column (delimited) or key (jsonl)
    label: str = "label"
    delimiter: str = ","
    encoding: str = "utf-8"
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    fine_labels: bool = (
        False  # labels are COARSE:fine; learn the fine ones, predict and score the coarse ones
    )
    deduplicate: bool = True
    max_length: int = 128  # in sub-words
    word_shapes: bool = False  # capitals and digits as token types, for an uncased encoder


@dataclass(frozen=True)
class TrainingConfig:
    """How to train."""

    epochs: int = 3
    batch_size: int = 32
    evaluation_batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 1e-4
    layer_decay: float = 1.0  # factor on the learning rate per layer below the head
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    schedule: str = "linear"
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    checkpoint_every_steps: int = 0  # 0: at the end of each epoch only
    keep_checkpoints: int = 1
    early_stopping_patience: int = 0  # epochs without a better score; 0: never stop early
    matmul_precision: str = (
        "highest"  # of training and evaluation: highest (float32) or medium (bfloat16 products)
    )


@dataclass(frozen=True)
class ExportConfig:
    """What to export after training."""

    targets: tuple[str, ...] = TARGETS
    opset: int = 17
    tolerance: float = 1e-4  # largest absolute difference of a logit


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run."""

    task: str = "sequence_classification"
    title: str = ""
    run_directory: str = "runs/run"
    seed: int = 0
    threads: int = 0  # 0: OMP_NUM_THREADS if set, else all cores
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def save(self, path: str | Path) -> None:
        """Write all values, also the defaults, as YAML, atomically."""
        values = dataclasses.asdict(self)
        values["export"]["targets"] = list(self.export.targets)
        write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def load_config(path: str | Path, overrides: typing.Sequence[str] = ()) -> RunConfig:
    """Read and check a configuration.

    Args:
        path: YAML file.
        overrides: ``section.key=value`` strings, applied on top; values are YAML.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value has a wrong type or is out of
            range. The message names the key, what was expected and what was found.
    """
    source = str(path)
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{source}: expected a configuration file, but there is no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{source}: expected a configuration file, got a folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: expected YAML, got {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{source}: expected a mapping of keys, got {'an empty file' if raw is None else repr(raw)}"
        )
    for override in overrides:
        _apply(raw, override)
    config = _build(RunConfig, raw, source, "")
    _check(config, source)
    return config


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"expected an override like training.epochs=2, got {override!r}")
    *sections, last = key.split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"override {override!r}: {section} is not a section")
    try:
        raw[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: expected a YAML value, got {error}") from error


def _build(cls: type[_Section], raw: Any, source: str, prefix: str) -> _Section:
    if not isinstance(raw, dict):
        raise ConfigError(f"{source}: {prefix.rstrip('.')}: expected a section with keys, got {raw!r}")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else f"; expected one of {sorted(hints)}"
            raise ConfigError(f"{source}: unknown key {prefix}{key}{hint}")
        expected = hints[key]
        if dataclasses.is_dataclass(expected):
            values[key] = _build(typing.cast(type, expected), value, source, f"{prefix}{key}.")
        else:
            values[key] = _value(expected, value, source, prefix + key)
    return cls(**values)


def _value(expected: Any, value: Any, source: str, key: str) -> Any:
    if typing.get_origin(expected) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ConfigError(f"{source}: {key}: expected a list of strings, got {value!r}")
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if expected is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 (no dot) as a string
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is not expected:
        got = "nothing" if value is None else f"{value!r} ({type(value).__name__})"
        raise ConfigError(f"{source}: {key}: expected {_type_name(expected)}, got {got}")
    return value


def _type_name(expected: Any) -> str:
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(expected, str(expected))


def _check(config: RunConfig, source: str) -> None:
    """Refuse what would fail later: a run may take hours before it reads its last key."""

    def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
        if value not in allowed:
            raise ConfigError(f"{source}: {key}: expected one of {list(allowed)}, got {value!r}")

    def within(key: str, low: float, high: float) -> None:
        section, name = key.split(".") if "." in key else ("", key)
        value = getattr(getattr(config, section) if section else config, name)
        if not low <= value <= high:
            raise ConfigError(f"{source}: {key}: expected a number from {low:g} to {high:g}, got {value!r}")

    one_of("task", config.task, TASKS)
    one_of("model.pooling", config.model.pooling, ("cls", "mean", "pooler"))
    one_of("data.format", config.data.format, FORMATS)
    one_of("training.schedule", config.training.schedule, ("linear", "cosine", "constant"))
    one_of("training.matmul_precision", config.training.matmul_precision, ("highest", "medium"))
    for target in config.export.targets:
        one_of("export.targets", target, TARGETS)
    if not config.data.train:
        raise ConfigError(f"{source}: data.train: expected a file or resource-name:member, got nothing")
    if (config.data.format == "conll") != (config.task == "token_classification"):
        raise ConfigError(
            f"{source}: data.format: expected 'conll' exactly for token_classification, got {config.data.format!r} "
            f"for {config.task}"
        )
    if config.data.fine_labels and config.task != "sequence_classification":
        raise ConfigError(f"{source}: data.fine_labels: expected sequence_classification, got {config.task}")
    if len(config.data.delimiter) != 1:
        raise ConfigError(f"{source}: data.delimiter: expected one character, got {config.data.delimiter!r}")
    for key in ("model.dropout", "model.attention_dropout", "training.label_smoothing"):
        within(key, 0.0, 0.95)
    for key in ("data.validation_fraction", "data.test_fraction"):
        within(key, 0.001, 0.8)
    for key in ("epochs", "batch_size", "evaluation_batch_size", "accumulate", "keep_checkpoints"):
        within(f"training.{key}", 1, 1_000_000)
    for key in ("checkpoint_every_steps", "early_stopping_patience"):
        within(f"training.{key}", 0, 1_000_000_000)
    within("training.learning_rate", 1e-12, 10.0)
    within("training.layer_decay", 0.01, 1.0)
    within("training.weight_decay", 0.0, 10.0)
    within("training.warmup_fraction", 0.0, 1.0)
    within("training.max_grad_norm", 1e-6, 1e6)
    within("data.max_length", 4, 100_000)
    within("export.opset", 7, 21)
    within("export.tolerance", 1e-7, 1.0)
    within("threads", 0, 4096)
    within("seed", 0, 2**31 - 1)
