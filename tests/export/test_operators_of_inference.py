"""``to_inference(ops=...)``, the library that a program needs, and what the manifest says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra._core import extension
from paddle_infra._core.errors import ExtensionUnavailableError, InvalidInputError, UnsupportedError
from paddle_infra.export import ExportReport, load_predictor, to_inference
from paddle_infra.export.library import check_library
from paddle_infra.ops import linear
from tests.export.small_models import SMALL, made

if not extension.load().is_loaded:
    pytest.skip(extension.status().explain(), allow_module_level=True)


@pytest.fixture(scope="module")
def bert() -> paddle.nn.Layer:
    return made("bert")


@pytest.fixture(scope="module", params=["fused", "standard"])
def report(
    request: pytest.FixtureRequest, bert: paddle.nn.Layer, tmp_path_factory: pytest.TempPathFactory
) -> ExportReport:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "vocab.txt").write_text("a\nb\n")
    (folder / "notes.txt").write_text("mine")
    return to_inference(
        bert,
        folder / "export",
        SMALL["bert"].inputs,
        dynamic_axes=SMALL["bert"].axes,
        extra_files=[folder / "vocab.txt", folder / "notes.txt"],
        ops=request.param,
    )


def test_the_manifest_says_which_operators_and_which_library(report: ExportReport) -> None:
    manifest = json.loads((report.path / "manifest.json").read_text())
    if manifest["operators"] == "standard":
        assert (manifest["custom_operators"], manifest["library"]) == ([], None)
        assert "paddle_infra_" not in (report.path / "model.json").read_text()
    else:
        assert "paddle_infra_attention" in manifest["custom_operators"]
        build = extension.status().build
        assert manifest["library"]["sha256"] == build["sha256"]
        assert manifest["library"]["abi"] == extension.ABI
        assert (manifest["library"]["name"], manifest["library"]["package_version"]) == (
            "libpaddle_infra.so",
            "0.1.0",
        )
    assert manifest["tokenizer"] == ["vocab.txt"]
    assert manifest["max_sizes"] == {"length": 66}
    assert manifest["value_ranges"] == {"input_ids": [0, 49]}
    measured = manifest["verification"]["float64"]
    assert 0 < measured["model"]["logits"] < 1e-5
    assert 0 < measured["export"]["logits"] < 1e-5
    assert manifest["verification"]["refused_by_model"] == {}
    names = [case["name"] for case in manifest["verification"]["cases"]]
    assert "largest sizes (batch=1, length=66)" in names


def test_without_the_library_only_a_standard_program_loads(
    report: ExportReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = extension.Extension(Path("/nowhere/libpaddle_infra.so"))
    monkeypatch.setattr(extension, "load", missing.load)
    if report.manifest.operators == "standard":
        assert load_predictor(report.path)(SMALL["bert"].inputs)["logits"].shape == (4, 3)
        return
    message = (
        r"needs libpaddle_infra\.so of paddle_infra 0\.1\.0 \(ABI \d+\), or an export with ops='standard', .*"
        r"/nowhere/libpaddle_infra\.so does not exist"
    )
    with pytest.raises(ExtensionUnavailableError, match=message):
        load_predictor(report.path)


def test_a_library_with_another_interface_is_refused(tmp_path: Path) -> None:
    needed = {"name": "libpaddle_infra.so", "package_version": "9.0", "abi": extension.ABI + 1}
    with pytest.raises(
        ExtensionUnavailableError, match=r"\['paddle_infra_linear'\] .* paddle_infra 9\.0 .*got one with ABI"
    ):
        check_library(tmp_path, ["paddle_infra_linear"], needed)
    check_library(tmp_path, ["somebodys_operator"], None)


def test_an_operator_without_another_form_is_refused(tmp_path: Path) -> None:
    class Explicit(paddle.nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return linear(x, paddle.ones([4, 3]), impl="fused")

    with pytest.raises(UnsupportedError, match=r"ops='standard': .* got \['paddle_infra_linear'\] too"):
        to_inference(Explicit(), tmp_path / "export", {"x": np.ones((2, 4), "float32")}, ops="standard")
    assert not (tmp_path / "export").exists()


def test_unknown_operators_are_refused(bert: paddle.nn.Layer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="ops: expected one of 'fused', 'standard', got 'fast'"):
        to_inference(bert, tmp_path / "export", SMALL["bert"].inputs, ops="fast")  # type: ignore[arg-type]
