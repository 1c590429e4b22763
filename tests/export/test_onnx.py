from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle
import pytest
from paddle import Tensor, nn

from paddle_infra._core.errors import (
    ExportError,
    InvalidInputError,
    MissingExtraError,
    UnsupportedError,
    ValueMismatch,
)
from paddle_infra.export import ExportReport, lowered_operators, lowers, to_onnx
from paddle_infra.export._program import Program
from paddle_infra.export.lowering import registry
from tests.export.models import DYNAMIC, LABELS, Encoder, FloatAttributes, debris, seeded, token_examples

IMAGE = {"image": np.random.default_rng(0).standard_normal((2, 4, 5, 5)).astype("float32")}
IMAGE_AXES = {"image": {0: "batch"}}


class Truncates(nn.Layer):
    """paddle2onnx has no trunc: it aborts its process."""

    def forward(self, x: Tensor) -> Tensor:
        return paddle.trunc(x)


def test_a_right_export_carries_names_labels_and_metadata(onnx_report: ExportReport) -> None:
    model = onnx.load(str(onnx_report.path / "model.onnx"))
    axes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert axes == {
        "input_ids": ["batch", "length"],
        "attention_mask": ["batch", "length"],
        "logits": ["batch", 3],
    }
    facts = {item.key: item.value for item in model.metadata_props}
    assert json.loads(facts["labels"]) == list(LABELS)
    assert facts["name"] == "Masked classifier"
    assert facts["epochs"] == "3"
    assert [item.version for item in model.opset_import] == [17]
    assert debris(onnx_report.path) == ["README.md", "example_inputs.npz", "manifest.json", "model.onnx"]
    assert onnx_report.manifest.opset == 17
    assert onnx_report.verification.engine.startswith("onnxruntime ")


def test_a_transformer_layer_with_two_outputs(tmp_path: Path) -> None:
    report = to_onnx(
        seeded(Encoder),
        tmp_path / "export",
        token_examples(),
        opset=13,
        dynamic_axes=DYNAMIC,
        output_names=("logits", "classes"),
    )
    assert [spec.dtype for spec in report.manifest.outputs] == ["float32", "int64"]


def test_floating_point_attributes_are_exact(tmp_path: Path) -> None:
    model = seeded(FloatAttributes)
    for converter in ("native", "paddle2onnx"):
        report = to_onnx(
            model,
            tmp_path / converter,
            IMAGE,
            converter=converter,  # type: ignore[arg-type]
            dynamic_axes=IMAGE_AXES,
            output_names=["y"],
        )
        assert report.verification.max_error < 1e-5
        assert report.manifest.converter == f"{converter}: asked for"


def test_without_the_attribute_fix_the_export_is_wrong_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Program, "store_doubles_as_floats", lambda self: None)
    with pytest.raises(ValueMismatch, match="output 'y', case #0"):
        to_onnx(
            seeded(FloatAttributes),
            tmp_path / "export",
            IMAGE,
            converter="paddle2onnx",
            dynamic_axes=IMAGE_AXES,
            output_names=["y"],
        )
    assert debris(tmp_path) == []


def test_an_abort_of_the_converter_is_an_error_that_names_the_operators(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"(?s)operators \[.*'pd_op\.trunc'\].*SIGABRT.*while converting to ONNX"
    ) as info:
        to_onnx(Truncates(), tmp_path / "export", {"x": np.ones((2, 3), "float32")}, output_names=["y"])
    assert "unsupported operators" in str(info.value)  # what the converter printed
    assert debris(tmp_path) == []


def test_a_custom_operator_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "custom_operators", property(lambda self: ["my_attention"]))
    with pytest.raises(UnsupportedError, match=r"expected standard operators, .* holds \['my_attention'\]"):
        to_onnx(Truncates(), tmp_path / "export", {"x": np.ones((2, 3), "float32")}, output_names=["y"])
    assert debris(tmp_path) == []


def test_auto_says_why_it_took_which_converter(tmp_path: Path, classifier: nn.Layer) -> None:
    report = to_onnx(classifier, tmp_path / "export", token_examples(), dynamic_axes=DYNAMIC)
    assert report.manifest.converter == "native: it has a lowering for every operator"
    with pytest.raises(UnsupportedError, match=r"got \['pd_op.trunc'\]: register a function"):
        to_onnx(
            Truncates(),
            tmp_path / "refused",
            {"x": np.ones((2, 3), "float32")},
            converter="native",
            output_names=["y"],
        )
    with pytest.raises(
        UnsupportedError, match=r"native converter cannot: .*pd_op.trunc.* decomposed attention only"
    ):
        to_onnx(
            Truncates(),
            tmp_path / "refused",
            {"x": np.ones((2, 3), "float32")},
            opset=22,
            output_names=["y"],
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 6}, "opset: expected 7 to 23, got 6"),
        ({"opset": 24}, "opset: expected 7 to 23, got 24"),
        ({"opset": "17"}, "opset: expected 7 to 23, got '17'"),
        ({"opset": True}, "opset: expected 7 to 23, got True"),
        ({"opset": 22, "converter": "paddle2onnx"}, "opset: expected 7 to 21, got 22"),
        ({"opset": 12, "converter": "native"}, "opset: expected 13 to 23, got 12"),
        ({"attention": "standard"}, "attention='standard': expected opset 23, which has Attention, got 17"),
        ({"attention": "contrib", "converter": "paddle2onnx"}, "attention: expected 'decomposed' with"),
        ({"attention": "flash"}, "attention: expected one of .*, got 'flash'"),
        ({"converter": "mine"}, "converter: expected one of .*, got 'mine'"),
    ],
)
def test_options_are_checked(
    tmp_path: Path, classifier: nn.Layer, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        to_onnx(classifier, tmp_path / "export", token_examples(), **options)


def test_weights_that_pass_the_limit_of_a_file_go_into_another(
    tmp_path: Path, classifier: nn.Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paddle_infra.export.onnx._LARGEST_MODEL_BYTES", 1000)
    report = to_onnx(classifier, tmp_path / "export", token_examples(), dynamic_axes=DYNAMIC)
    assert {"model.onnx", "model.onnx.data"} <= report.manifest.files.keys()
    assert (tmp_path / "export/model.onnx.data").stat().st_size >= 1000


def test_a_function_for_a_new_operator(tmp_path: Path) -> None:
    def trunc(graph: Any, operator: Any) -> str:
        name = graph.name(operator.input(0))
        return str(
            graph.add("Mul", [graph.add("Sign", [name]), graph.add("Floor", [graph.add("Abs", [name])])])
        )

    assert "pd_op.trunc" not in lowered_operators()
    lowers("pd_op.trunc")(trunc)
    try:
        with pytest.raises(
            InvalidInputError, match=r"\['pd_op.trunc'\]: expected operators without a lowering"
        ):
            lowers("pd_op.trunc")(trunc)
        x = np.random.default_rng(0).normal(scale=3, size=(2, 3)).astype("float32")
        report = to_onnx(Truncates(), tmp_path / "export", {"x": x}, output_names=["y"])
        assert report.verification.max_error == 0
    finally:
        del registry._REGISTRY["pd_op.trunc"]


def test_a_model_that_needs_a_later_opset_is_refused(tmp_path: Path, classifier: nn.Layer) -> None:
    with pytest.raises(UnsupportedError, match="this model needs opset 13 or later, asked for opset 12"):
        to_onnx(classifier, tmp_path / "export", token_examples(), opset=12)  # below the native converter's
    assert debris(tmp_path) == []


def test_a_missing_package_names_the_extra(
    tmp_path: Path, classifier: nn.Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "paddle2onnx", None)
    with pytest.raises(MissingExtraError, match=r"'paddle2onnx': pip install 'paddle_infra\[paddle2onnx\]'"):
        to_onnx(classifier, tmp_path / "export", token_examples(), converter="paddle2onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime': pip install 'paddle_infra\[onnx\]'"):
        to_onnx(classifier, tmp_path / "export", token_examples())


def test_the_converter_cannot_start_another_program() -> None:
    code = (
        "import subprocess, sys\n"
        "from paddle_infra.export._paddle2onnx import _refuse_processes\n"
        "sys.addaudithook(_refuse_processes)\n"
        "subprocess.run([sys.executable, '-m', 'pip', 'install', 'anything'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "PermissionError: the converter must not start another program: subprocess.Popen" in result.stderr
