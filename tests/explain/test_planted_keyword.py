"""A classifier trained here on texts with a planted keyword: both methods find it."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra.explain import integrated_gradients, occlusion, token_baseline, token_explanations
from paddle_infra.models import BertForSequenceClassification
from tests.explain.models import CLS, MASK, PAD, SEP, small_config

KEYWORD = 33


def texts(count: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return sequences of 6 to 12 tokens; half of them have the keyword somewhere."""
    generator = np.random.default_rng(seed)
    ids = np.full((count, 14), PAD, np.int64)
    labels = np.arange(count) % 2
    for row, label in enumerate(labels):
        words = generator.integers(4, 33, generator.integers(6, 13))
        words[generator.integers(len(words))] = KEYWORD if label else 4
        ids[row, : len(words) + 2] = [CLS, *words, SEP]
    return {"input_ids": ids, "attention_mask": (ids != PAD).astype(np.int64)}, labels


@pytest.fixture(scope="module")
def trained() -> BertForSequenceClassification:
    paddle.seed(7)
    model = BertForSequenceClassification(
        small_config(labels=("without", "with"), initializer_range=0.05, pooling="cls")
    )
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=model.parameters())
    for step in range(120):
        batch, labels = texts(32, seed=step)
        loss = model.loss(
            **{n: paddle.to_tensor(v) for n, v in batch.items()}, labels=paddle.to_tensor(labels)
        )
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    return model


@pytest.mark.parametrize("method", ["integrated gradients", "occlusion"])
def test_the_keyword_is_the_reason(trained: BertForSequenceClassification, method: str) -> None:
    batch, labels = texts(40, seed=1000)
    base = {"input_ids": token_baseline(batch["input_ids"], MASK, keep=(PAD, CLS, SEP))}
    if method == "occlusion":
        name, found = "input_ids", occlusion(trained, batch, base, target=1)
    else:
        name = "encoder.embeddings"
        found = integrated_gradients(trained, batch, base, layers=[name], target=1, steps=64)
        change = found.score - found.baseline_score
        assert np.abs(found.delta).max() < 0.05 * np.abs(change).max()
    correct = (found.probability > 0.5) == labels
    assert correct.mean() > 0.95
    lengths = batch["attention_mask"].sum(axis=1)
    tokens = [[str(i) for i in row[:length]] for row, length in zip(batch["input_ids"], lengths, strict=True)]
    explanations = token_explanations(found, name, tokens, labels=["without", "with"])
    hits = [item.top(1)[0] for item, label in zip(explanations, labels, strict=True) if label]
    share = np.mean([token == str(KEYWORD) and value > 0 for token, value in hits])
    assert share >= 0.95
