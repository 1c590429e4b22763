"""bfloat16 exports: rounded for real, held to the float32 model, recorded, gated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import AccuracyLossError, InvalidInputError, UnsupportedError, ValueMismatch
from paddle_infra.compress import AccuracyGate, to_inference_bfloat16
from paddle_infra.export import load_predictor, read_manifest
from paddle_infra.ops import implementation
from tests.compress.models import DYNAMIC, accuracy, bert, logits_of, token_examples

CASES = [token_examples(), token_examples(2, 7)]


def export(model: Any, path: Path, **options: Any) -> Any:
    options = {"atol": 0.3, "dynamic_axes": DYNAMIC, "verify_inputs": CASES, **options}
    return to_inference_bfloat16(model, path, token_examples(), **options)


def test_compiled_operators(tmp_path: Path) -> None:
    model = bert()
    report = export(model, tmp_path / "export")
    assert 1e-4 < report.verification.max_error < 0.3  # against float32, and rounded indeed
    affected = read_manifest(report.path).compression["bfloat16_operators"]
    assert "custom_op.paddle_infra_attention" in affected
    assert "bfloat16_operators" in (report.path / "README.md").read_text()
    got = load_predictor(report.path)(CASES[0])["logits"]
    np.testing.assert_allclose(got, logits_of(model, CASES[0]), atol=0.3)


def test_paddles_own_operators(tmp_path: Path) -> None:
    model = bert()
    with implementation("reference"):
        report = export(model, tmp_path / "export", products="engine")
    assert report.manifest.custom_operators == ()
    assert "pd_op.matmul" in read_manifest(report.path).compression["bfloat16_engine"]
    if "avx512" in Path("/proc/cpuinfo").read_text():  # elsewhere Paddle goes on in float32
        assert report.verification.max_error > 1e-4


def test_refusals_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueMismatch, match="tolerance 1e-06"):
        export(bert(), tmp_path / "export", atol=1e-6)
    examples = token_examples(8)
    labels = (logits_of(bert(), examples).argmax(-1) + 1) % 3
    gate = AccuracyGate(accuracy, (examples, labels), reference=1.0, max_drop=0.1)
    with pytest.raises(AccuracyLossError, match="got 0"):
        export(bert(), tmp_path / "export", gate=gate)
    with (
        pytest.raises(UnsupportedError, match="expected a program with operators custom_op"),
        implementation("reference"),
    ):
        export(bert(), tmp_path / "export")
    embedding = paddle.nn.Embedding(60, 4)
    with pytest.raises(UnsupportedError, match=r"operators pd_op\.matmul or pd_op\.conv2d"):
        to_inference_bfloat16(
            embedding, tmp_path / "export", {"x": np.array([[1]])}, atol=1.0, products="engine"
        )
    with pytest.raises(
        InvalidInputError, match="products: expected one of 'operators', 'engine', got 'both'"
    ):
        export(bert(), tmp_path / "export", products="both")
    assert list(tmp_path.iterdir()) == []
