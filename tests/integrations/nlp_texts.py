"""A vocabulary file, two tokenizers of PaddleNLP made from it, and batches of labelled sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.integrations.nlp_models import transformers

WORDS = ("the", "a", "film", "was", "is", "not", "very", "good", "bad", "dull", "great", "and", "i")
WORDS += ("liked", "hated", "it", "today", "play", "much", "##s", "##ed")
SENTENCES = (
    ("the film was very good", 1),
    ("a dull film", 0),
    ("i liked the plays and the film today", 1),
    ("it is not good", 0),
    ("great", 1),
    ("i hated the play it was dull and bad", 0),
    ("the play was great and i liked it very very much", 1),
    ("bad", 0),
)


def tokenizer(kind: str, folder: Path) -> Any:
    """``BertTokenizer`` or ``ErnieTokenizer``."""
    path = folder / "vocab.txt"
    lines = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return getattr(transformers, kind)(str(path))


class Batches:
    """Batches of two sentences, tokenized and padded by PaddleNLP; can start anywhere in an epoch."""

    def __init__(self, tokenize: Any) -> None:
        self.tokenize = tokenize

    def __len__(self) -> int:
        return len(SENTENCES) // 2

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self.iterate(0)

    def iterate(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches of an epoch from the ``start``-th on."""
        order = np.random.default_rng(epoch).permutation(len(SENTENCES))
        for index in range(start, len(self), step):
            chosen = [SENTENCES[place] for place in order[2 * index : 2 * index + 2]]
            yield encode(self.tokenize, [text for text, _ in chosen]) | {
                "labels": np.array([label for _, label in chosen])
            }


def encode(tokenize: Any, texts: list[str]) -> dict[str, np.ndarray]:
    """The arrays that the models take."""
    return dict(tokenize(texts, padding=True, return_attention_mask=True, return_tensors="np"))
