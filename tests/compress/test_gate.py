"""The accuracy gate: both figures in the error, nothing left behind, an earlier export kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_infra import compress, export
from paddle_infra._core.errors import AccuracyLossError, InvalidInputError
from paddle_infra.export import read_manifest
from paddle_infra.export.manifest import check_files
from tests.compress.models import DYNAMIC, accuracy, bert, logits_of, token_examples


def spoiled() -> Any:
    """A model that gives the first class to everything."""
    model = bert()
    model.head.classifier.bias.set_value(np.array([1e4, 0, 0], np.float32))
    return model


@pytest.fixture(scope="module")
def data() -> tuple[dict[str, np.ndarray], np.ndarray]:
    examples = token_examples(24)
    return examples, logits_of(bert(), examples).argmax(-1)


def new_gate(data: Any, **options: Any) -> compress.AccuracyGate:
    return compress.AccuracyGate(accuracy, data, **{"reference": bert(), "max_drop": 0.01, **options})


def test_figures_of_models_that_pass(data: Any) -> None:
    gate = new_gate(data)
    assert gate.reference == 1.0
    result = gate.check(compress.quantize_linears(bert()))
    assert (result.metric, result.reference, result.max_drop) == ("accuracy", 1.0, 0.01)
    assert result.compressed == 1.0 - result.drop >= 0.99


def test_the_error_has_both_figures(data: Any) -> None:
    share = float((data[1] == 0).mean())
    assert share < 0.9
    with pytest.raises(
        AccuracyLossError, match=rf"at least 0.99 \(1 before .* 0.01 allowed\), got {share:.6g}"
    ) as error:
        new_gate(data).check(spoiled())
    assert (error.value.reference, error.value.compressed) == (1.0, share)


def test_the_limit_itself_passes_and_nan_never() -> None:
    gate = compress.AccuracyGate(lambda predict, value: value, 0.89, reference=0.9, max_drop=0.01)
    assert gate.check(bert()).drop == pytest.approx(0.01)
    gate.data = 0.8899
    with pytest.raises(AccuracyLossError, match=r"got 0\.8899"):
        gate.check(bert())
    gate.data = float("nan")
    with pytest.raises(AccuracyLossError, match="got nan"):
        gate.check(bert())


def test_gated_export(data: Any, tmp_path: Path) -> None:
    gate, impossible = new_gate(data, max_drop=1.0), new_gate(data, reference=2.0)
    target = tmp_path / "export"

    model = compress.quantize_linears(bert(num_hidden_layers=1))
    made = export.to_inference(
        model,
        tmp_path / "made",
        token_examples(),
        dynamic_axes=DYNAMIC,
        verify_inputs=[token_examples(), token_examples(2, 7)],
        atol=1e-3,
    )

    def exporter(folder: Path) -> export.ExportReport:
        """Do what an exporter does, without its seconds."""
        shutil.copytree(made.path, folder, dirs_exist_ok=True)
        return replace(made, path=folder)

    with pytest.raises(AccuracyLossError):
        compress.gated(impossible, exporter, target)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]

    report = compress.gated(gate, exporter, target)
    assert report.path == target
    saved = read_manifest(target).compression["gate"]
    assert saved["reference"] == 1.0
    assert saved["drop"] == 1.0 - saved["compressed"]
    assert json.dumps(saved) in (target / "README.md").read_text()
    check_files(target, read_manifest(target))

    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(AccuracyLossError):
        compress.gated(impossible, exporter, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "made"]


def test_a_foreign_folder_is_kept(data: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInputError, match="expected a new or empty folder or an earlier export"):
        compress.gated(new_gate(data), lambda folder: pytest.fail("must not be called"), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_arguments(data: Any) -> None:
    with pytest.raises(InvalidInputError, match="max_drop: expected a finite number"):
        new_gate(data, max_drop=-0.1)
    with pytest.raises(InvalidInputError, match="expected a finite accuracy, got nan"):
        new_gate(data, reference=float("nan"))
