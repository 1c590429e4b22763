"""The package as a whole: light to import, and every piece fits the next."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from paddle_infra import data


def test_it_needs_no_paddle_and_no_heavy_import(start_python: Callable[..., subprocess.Popen[str]]) -> None:
    process = start_python("""
        import sys
        import paddle_infra.data
        print([name for name in ("tokenizers", "filelock", "rich", "matplotlib", "asyncio") if name in
        sys.modules])
    """)
    assert process.communicate()[0] == "[]\n"
    assert process.returncode == 0


def test_every_public_name_exists() -> None:
    assert sorted(data.__all__, key=str.casefold) == sorted(set(data.__all__), key=str.casefold)
    assert all(hasattr(data, name) for name in data.__all__)


def test_from_the_file_to_batches(minilm_dir: Path, trec_file: Path) -> None:
    examples = data.deduplicate(data.read_question_labels(trec_file))
    parts = data.split(examples, {"train": 0.8, "test": 0.2}, seed=0)
    labels = data.LabelMap.from_examples(examples)
    tokenizer = data.Tokenizer.from_pretrained(minilm_dir)
    dataset = data.SequenceClassificationDataset(parts["test"], tokenizer, labels, max_length=64)
    assert dataset.truncated_count == 0
    sampler = data.LengthBucketSampler(dataset.lengths, 32, seed=1)
    assert sampler.padding_fraction(0) < 0.06
    loader = data.Loader(dataset, sampler, data.PaddingCollator(tokenizer.pad_id))
    batches = list(loader.iterate(0))
    assert len(batches) == len(loader)
    seen = np.concatenate([batch["labels"] for batch in batches])
    assert np.bincount(seen).tolist() == [
        sum(e.label == name for e in parts["test"]) for name in labels.to_list()
    ]
    for batch in batches:
        assert (batch["input_ids"][:, 0] == 101).all()
        ends = batch["attention_mask"].sum(axis=1) - 1
        assert (np.take_along_axis(batch["input_ids"], ends[:, None], axis=1) == 102).all()
        assert ((batch["input_ids"] == tokenizer.pad_id) == (batch["attention_mask"] == 0)).all()
