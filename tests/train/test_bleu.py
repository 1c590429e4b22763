from __future__ import annotations

import sys

import numpy as np
import pytest

from paddle_infra._core.errors import InvalidInputError, MissingExtraError
from paddle_infra.train import BLEU

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "slept", ",", "."]


def texts(seed: int, count: int = 40) -> tuple[list[str], list[list[str]]]:
    """Texts, and two references for each that share most words."""
    rng = np.random.default_rng(seed)
    references = [[" ".join(rng.choice(WORDS, rng.integers(4, 12))) for _ in range(2)] for _ in range(count)]
    changed = [" ".join(w if rng.random() < 0.8 else "dog" for w in r[0].split()) for r in references]
    return changed, references


def test_any_split_equals_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    found, references = texts(0)
    expected = sacrebleu.corpus_bleu(found, [list(column) for column in zip(*references, strict=True)]).score
    assert 5 < expected < 95
    for seed in range(5):
        rng = np.random.default_rng(seed)
        processes = [BLEU() for _ in range(3)]
        for part in np.split(rng.permutation(len(found)), np.sort(rng.integers(0, len(found), 9))):
            chosen = processes[rng.integers(3)]
            chosen.update(texts=[found[i] for i in part], references=[references[i] for i in part])
        merged = BLEU()
        for process in processes:
            merged.add_state(process.state())
        assert merged.compute() == {"bleu": expected}


def test_one_reference_and_none() -> None:
    pytest.importorskip("sacrebleu")
    metric = BLEU(tokenize="char")
    assert metric.compute() == {"bleu": 0.0}
    metric.update(texts=["同一个句子"], references=["同一个句子"])
    assert metric.compute()["bleu"] == pytest.approx(100.0)
    metric.reset()
    assert metric.compute() == {"bleu": 0.0}


def test_bad_inputs() -> None:
    pytest.importorskip("sacrebleu")
    with pytest.raises(InvalidInputError, match="expected the evaluation outputs 'texts' and 'references'"):
        BLEU().update(texts=["a"])
    with pytest.raises(InvalidInputError, match=r"got the shapes \[2\] and \[1\]"):
        BLEU().update(texts=["a", "b"], references=["a"])


def test_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MissingExtraError, match=r"BLEU needs the package 'sacrebleu': .*\[text\]"):
        BLEU()
