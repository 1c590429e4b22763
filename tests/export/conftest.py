"""One export of each kind for all tests: making one takes seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import paddle
import pytest

from paddle_infra.export import ExportReport, to_inference, to_onnx
from tests.export.models import DYNAMIC, LABELS, MaskedClassifier, seeded, token_examples


@pytest.fixture(scope="session")
def classifier() -> paddle.nn.Layer:
    model = seeded(MaskedClassifier)
    model.hidden.eval()  # a mixed state: it must come back exactly
    return model


@pytest.fixture(scope="session")
def paddle_report(classifier: paddle.nn.Layer, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    folder = tmp_path_factory.mktemp("paddle")
    (folder / "tokenizer.json").write_text("{}")
    return to_inference(
        classifier,
        folder / "export",
        token_examples(),
        dynamic_axes=DYNAMIC,
        output_names=("logits", "pooled"),
        labels=LABELS,
        extra_files=[folder / "tokenizer.json"],
        metadata={"name": "Masked classifier", "epochs": 3},
    )


@pytest.fixture(scope="session")
def onnx_report(classifier: paddle.nn.Layer, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return to_onnx(
        classifier,
        tmp_path_factory.mktemp("onnx") / "export",
        token_examples(),
        dynamic_axes=DYNAMIC,
        labels=LABELS,
        metadata={"name": "Masked classifier", "epochs": 3},
    )


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[ExportReport], Path]:
    def copy(report: ExportReport) -> Path:
        return Path(shutil.copytree(report.path, tmp_path / "copy"))

    return copy
