from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from paddle_infra.export import ExportReport, Manifest, TensorSpec
from paddle_infra.export.card import card_text


def test_a_card_says_what_a_stranger_needs(paddle_report: ExportReport) -> None:
    text = (paddle_report.path / "README.md").read_text()
    assert text.startswith("# Masked classifier (Paddle Inference)\n")
    assert "Model file: `model.json`. Needs no operator library." in text
    assert "| `input_ids` | int64 | batch x length |" in text
    assert "| `logits` | float32 | batch x 3 |" in text
    assert "| 2 | high |" in text
    assert (
        f"the largest absolute error is **{paddle_report.verification.max_error:.3g}**, allowed 0.0001."
        in text
    )
    assert all(f"| {case.name} |" in text for case in paddle_report.verification.cases)
    assert "| epochs | 3 |" in text


@pytest.mark.parametrize("kind", ["paddle", "onnx"])
def test_the_code_in_the_card_runs(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder: Path = request.getfixturevalue(f"{kind}_report").path
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    outputs = names["outputs"]
    logits = outputs["logits"] if kind == "paddle" else outputs[0]
    assert logits.shape == (4, 3)
    assert os.listdir(folder) == os.listdir(".")


def test_missing_facts_are_left_out_and_tables_are_not_broken() -> None:
    spec = TensorSpec("x", "float32", ())
    manifest = Manifest(
        "onnx", "model.onnx", None, (spec,), (spec,), metadata={"name": "a|b\nc", "k": "v|w"}, opset=17
    )
    text = card_text(manifest)
    assert text.startswith("# a\\|b c (ONNX)\n")
    assert "| k | v\\|w |" in text
    assert "Verification" not in text
    assert "Labels" not in text
    assert "| `x` | float32 | scalar |" in text
    needs = Manifest("paddle", "model.json", None, (spec,), (spec,), custom_operators=("fused_op",))
    assert "Needs the compiled operators of paddle_infra: fused_op." in card_text(needs)
