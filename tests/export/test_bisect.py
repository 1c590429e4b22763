"""The first layer that differs, for every kind of export and faults in layers of every kind."""

from __future__ import annotations

from pathlib import Path

import onnx
import paddle
import pytest

from paddle_infra._core.errors import ExportError, UnsupportedError, ValueMismatch
from paddle_infra.export import ExportReport, to_inference, to_onnx, verify
from tests.export.models import replace_text, reseal
from tests.export.small_models import SMALL, made

LAYERS = {
    "bert": "encoder.stack.layers.0.output",
    "lstm tagger": "network.back.0",
    "resnet": "blocks.1.shortcut.conv",
    "two towers": "right.intermediate",
}
TARGETS = {
    "fused": (to_inference, {}),
    "standard": (to_inference, {"ops": "standard"}),
    "decomposed": (to_onnx, {"converter": "native"}),
    "contrib": (to_onnx, {"converter": "native", "attention": "contrib"}),
}


def export(name: str, target: str, folder: Path) -> ExportReport:
    exporter, options = TARGETS[target]
    small = SMALL[name]
    return exporter(
        made(name),
        folder / "export",
        small.inputs,
        dynamic_axes=small.axes,
        output_names=small.outputs,
        **options,
    )


def changed(name: str) -> paddle.nn.Layer:
    """The model with one weight of its layer changed: seen from it, the export is wrong there."""
    model = made(name)
    layer = dict(model.named_sublayers())[LAYERS[name]]
    weight = next(p for n, p in layer.named_parameters() if "weight" in n)
    values = weight.numpy()
    values.flat[3] += 1.0
    weight.set_value(values)
    return model


@pytest.mark.parametrize(
    ("name", "target"),
    [("bert", "fused"), ("lstm tagger", "decomposed")],
)
def test_the_first_layer_is_named(name: str, target: str, tmp_path: Path) -> None:
    check(name, target, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", LAYERS)
def test_the_first_layer_is_named_everywhere(name: str, target: str, tmp_path: Path) -> None:
    check(name, target, tmp_path)


def check(name: str, target: str, folder: Path) -> None:
    report = export(name, target, folder)
    with pytest.raises(ValueMismatch, match=f"the first layer that differs is '{LAYERS[name]}'") as caught:
        verify(report.path, changed(name), bisect=True)
    assert caught.value.layer == LAYERS[name]


def test_a_fault_in_the_file_itself_and_one_outside_of_layers(tmp_path: Path) -> None:
    folder = export("two towers", "decomposed", tmp_path).path
    graph = onnx.load(str(folder / "model.onnx"))
    softmax = next(node for node in graph.graph.node if node.op_type == "Softmax")
    gelu = next(node for node in graph.graph.node if node.op_type == "Erf")
    softmax.attribute[0].i = 0
    onnx.save(graph, str(folder / "model.onnx"))
    reseal(folder)
    with pytest.raises(ValueMismatch, match="no layer's own output differs") as caught:
        verify(folder, made("two towers"), bisect=True)
    assert (caught.value.output, caught.value.layer) == ("chances", "")
    gelu.op_type = "Tanh"
    onnx.save(graph, str(folder / "model.onnx"))
    reseal(folder)
    with pytest.raises(ValueMismatch, match=r"the first layer that differs is 'left\.intermediate'"):
        verify(folder, made("two towers"), bisect=True)


def test_what_cannot_be_looked_into_is_an_error(tmp_path: Path) -> None:
    folder = export("two towers", "standard", tmp_path).path
    replace_text(folder / "model.json", '"1.softmax"', '"1.log_softmax"')
    reseal(folder)
    with pytest.raises(
        ExportError, match="expected the operators of the model, found others: they were changed"
    ):
        verify(folder, made("two towers"), bisect=True)
    replace_text(folder / "manifest.json", '"converter": null', '"converter": "paddle2onnx: asked for"')
    with pytest.raises(
        UnsupportedError, match="bisect: expected an export by the native converter, got 'paddle2onnx"
    ):
        verify(folder, made("two towers"), bisect=True)
