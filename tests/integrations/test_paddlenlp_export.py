"""Accelerated models leave: Paddle's own program, Paddle Inference and ONNX, each verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra import export
from paddle_infra.integrations import paddlenlp as fused_nlp
from tests.integrations.nlp_models import ids, make, masks, tensors
from tests.integrations.nlp_texts import encode, tokenizer

AXES = {name: {0: "batch", 1: "length"} for name in ("input_ids", "token_type_ids", "attention_mask")}
MODELS = ("BertForSequenceClassification", "ErnieForTokenClassification", "RobertaForSequenceClassification")


def custom_operators(program: Path) -> int:
    return program.read_text(encoding="utf-8").count("paddle_infra_")


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "ErnieForTokenClassification"])
def test_jit_save(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.eval()
    sizes = (ids(), ids(1)[:2, :7])
    expected = [model(paddle.to_tensor(tokens)).numpy() for tokens in sizes]
    fused_nlp.accelerate(model)
    spec = [paddle.static.InputSpec([None, None], "int64", "input_ids")]
    paddle.jit.save(paddle.jit.to_static(model, full_graph=True), str(tmp_path / "model"), input_spec=spec)
    assert custom_operators(tmp_path / "model.json") >= 2 * 4
    loaded = paddle.jit.load(str(tmp_path / "model"))
    for tokens, logits in zip(sizes, expected, strict=True):
        np.testing.assert_allclose(loaded(paddle.to_tensor(tokens)).numpy(), logits, rtol=1e-4, atol=1e-5)


def examples(folder: Path) -> dict[str, np.ndarray]:
    return encode(tokenizer("BertTokenizer", folder), ["the film was very good", "dull"])


@pytest.mark.parametrize("name", MODELS)
def test_paddle_inference(name: str, tmp_path: Path) -> None:
    model = make(name)
    fused_nlp.accelerate(model)
    inputs = examples(tmp_path)
    report = export.to_inference(model, tmp_path / "export", inputs, dynamic_axes=AXES)
    assert custom_operators(report.path / "model.json") >= 2 * 4
    check(report, model, inputs)


@pytest.mark.parametrize("name", MODELS[:2])
def test_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = make(name)
    fused_nlp.accelerate(model)
    inputs = examples(tmp_path)
    check(export.to_onnx(model, tmp_path / "export", inputs, dynamic_axes=AXES), model, inputs)


def check(report: export.ExportReport, model: Any, inputs: dict[str, np.ndarray]) -> None:
    """Run the export beside the model as PaddleNLP computes it, in other sizes than those of the example."""
    fused_nlp.restore(model)
    model.eval()
    keep = masks()["int64"]
    assert keep is not None
    others = {"input_ids": ids(), "token_type_ids": np.zeros_like(ids()), "attention_mask": keep}
    predict = export.load_predictor(report.path)
    for arrays in (inputs, others):
        found = predict(arrays)["logits"]
        np.testing.assert_allclose(found, model(**tensors(**arrays)).numpy(), rtol=1e-4, atol=1e-4)
