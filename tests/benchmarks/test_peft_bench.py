"""bench_peft.py: its methods, and the shares of the parameters that it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench_peft import ADALORA_TARGET, METHODS
from paddle_infra import peft
from paddle_infra.models import BertForSequenceClassification

MOST = {"lora": 0.02, "adalora": 0.02, "ia3": 0.002, "adapters": 0.02, "prefix": 0.005}


@pytest.mark.parametrize("name", MOST)
def test_shares_of_minilm(name: str, minilm_dir: Path) -> None:
    labels = tuple(str(index) for index in range(50))
    model = BertForSequenceClassification.from_pretrained(minilm_dir, labels=labels, type_vocab_size=5)
    method = METHODS[name]
    applied = peft.apply(
        model,
        getattr(peft, method.config)(**(method.settings or {})),
        train_also=("head", "token_type"),
    )
    share = peft.count_parameters(model).share
    assert 0 < share < MOST[name]
    if name == "adalora":
        assert applied.config.rank > ADALORA_TARGET
