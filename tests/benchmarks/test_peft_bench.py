"""bench_peft.py: the shares of the parameters that it trains, and the report, with made-up figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report_peft
from benchmarks._report_markdown import fill
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


def test_the_report(tmp_path: Path) -> None:
    columns = (
        "method,seed,learning_rate,epochs,threads,test_accuracy,trained_parameters,trained_share,step_ms,peak_mib,"
        "device,date"
    )
    lines = [
        "full,0,0.0005,5,1,0.5,1000,1.0,200,300,a processor,2026-01-01 00:00",
        "full,0,0.0005,5,1,0.92,1000,1.0,200,300,a processor,2026-01-02 00:00",
        "full,1,0.0005,5,1,0.88,1000,1.0,220,300,a processor,2026-01-02 00:00",
        "lora,0,0.002,5,1,0.891,12,0.012,150,200,a processor,2026-01-02 00:00",
    ]
    (tmp_path / "peft.csv").write_text("\n".join([columns, *lines]) + "\n")
    text = report_peft.section(tmp_path)
    assert "| full | 0.0005 | 90.00% (88.00%–92.00%) | 100.0% | 1,000 (100.00%) | 210 | 300 |" in text
    assert "| lora | 0.002 | 89.10% (89.10%–89.10%) | 99.0% | 12 (1.20%) | 150 | 200 |" in text
    assert text.endswith(
        "the smallest and the largest accuracy; 5 epochs, 1 thread(s). a processor, 2026-01-02 00:00 UTC."
    )
    assert report_peft.section(tmp_path / "none") == report_peft.MISSING
    page = report_peft.PAGE.read_text(encoding="utf-8")
    assert fill(page, {"table": report_peft.section()}, "peft") == page
