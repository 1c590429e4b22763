"""A small encoder with the real tokenizer, and a small labelled file: real runs in seconds."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import paddle
import pytest
import yaml

from paddle_infra.data import read_question_labels
from paddle_infra.models import BertConfig, BertModel


@pytest.fixture(autouse=True)
def _untuned_afterwards() -> Iterator[None]:
    """Commands tune Paddle for the CPU, which changes last bits: other tests of this process compare them."""
    flags = paddle.get_flags("FLAGS_use_stride_kernel")
    yield
    paddle.set_flags(flags)
    paddle.base.core.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def encoder_dir(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    paddle.seed(0)
    BertModel(
        BertConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)
    shutil.copy(minilm_dir / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="session")
def questions_csv(trec_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 real questions of the two largest classes, as CSV."""
    path = tmp_path_factory.mktemp("questions") / "questions.csv"
    examples = [example for example in read_question_labels(trec_file) if example.label in ("HUM", "ENTY")][
        :400
    ]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "kind"])
        writer.writerows((example.text, example.label) for example in examples)
    return path


@pytest.fixture
def config_file(encoder_dir: Path, questions_csv: Path, tmp_path: Path) -> Path:
    values = {
        "task": "sequence_classification",
        "run_directory": str(tmp_path / "run"),
        "threads": 1,
        "model": {"pretrained": str(encoder_dir)},
        "data": {"train": str(questions_csv), "text": "question", "label": "kind", "max_length": 32},
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.003},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture
def tagging_config_file(encoder_dir: Path, conll_dir: Path, tmp_path: Path) -> Path:
    """The first sentences of CoNLL-2003, for token classification with word shapes."""
    for name, count in (("train", 200), ("valid", 60), ("test", 60)):
        sentences = (conll_dir / f"{name}.txt").read_text(encoding="utf-8").split("\n\n")[:count]
        (tmp_path / f"{name}.txt").write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    data = {"train": "train", "validation": "valid", "test": "test"}
    values = {
        "task": "token_classification",
        "run_directory": str(tmp_path / "run"),
        "threads": 1,
        "model": {"pretrained": str(encoder_dir)},
        "data": {key: str(tmp_path / f"{name}.txt") for key, name in data.items()}
        | {"format": "conll", "deduplicate": False, "max_length": 64, "word_shapes": True},
        "training": {"epochs": 1, "batch_size": 16, "learning_rate": 0.003},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path
