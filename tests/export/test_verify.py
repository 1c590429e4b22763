from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import paddle
import pytest

from paddle_infra._core.errors import (
    AxisMismatch,
    DtypeMismatch,
    ExportError,
    InvalidInputError,
    NameMismatch,
    ValueMismatch,
    VerificationError,
)
from paddle_infra.export import ExportReport, _process, verify
from tests.export.models import MaskedClassifier, replace_text, reseal, seeded, token_examples

Copy = Callable[[ExportReport], Path]


def edit_onnx(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(str(folder / "model.onnx"))
    change(model)
    onnx.save(model, str(folder / "model.onnx"))
    reseal(folder)


@pytest.mark.parametrize("kind", ["paddle", "onnx"])
def test_a_right_export_passes_with_real_batches(
    kind: str, request: pytest.FixtureRequest, classifier: paddle.nn.Layer
) -> None:
    export = request.getfixturevalue(f"{kind}_report").path
    batches = [token_examples(4, 9), token_examples(2, 12), token_examples(1, 33)]
    report = verify(export, classifier, batches)
    assert [case.sizes for case in report.cases] == [
        {"batch": batch, "length": length} for batch, length in ((4, 9), (2, 12), (1, 33))
    ]
    assert report.target == kind
    assert 0 <= report.max_error < 1e-5
    assert json.loads(json.dumps(report.as_dict()))["max_error"] == report.max_error


def test_a_plain_function_can_be_the_reference(onnx_report: ExportReport) -> None:
    def wrong(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return np.zeros((len(inputs["input_ids"]), 3), "float32")

    with pytest.raises(ValueMismatch, match=r"case #0 .*expected 0.0 at index \[0, 0\]"):
        verify(onnx_report.path, wrong)


# Faults that the files themselves show: no engine is started.


def test_a_tampered_weight_file_fails_its_hash(
    paddle_report: ExportReport, classifier: paddle.nn.Layer, copy_of: Copy
) -> None:
    folder = copy_of(paddle_report)
    data = bytearray((folder / "model.pdiparams").read_bytes())
    data[-1] ^= 1
    (folder / "model.pdiparams").write_bytes(data)
    with pytest.raises(
        VerificationError, match=r"model\.pdiparams: the file has changed: expected SHA-256 \w{64}, got"
    ):
        verify(folder, classifier)


def test_a_missing_file_is_named(
    paddle_report: ExportReport, classifier: paddle.nn.Layer, copy_of: Copy
) -> None:
    folder = copy_of(paddle_report)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        VerificationError, match=r"tokenizer\.json: expected a file with SHA-256 \w{64}, found none"
    ):
        verify(folder, classifier)


def test_a_damaged_or_missing_manifest_is_an_error(
    tmp_path: Path, paddle_report: ExportReport, classifier: paddle.nn.Layer, copy_of: Copy
) -> None:
    with pytest.raises(ExportError, match=r"expected an export with a manifest\.json, found none"):
        verify(tmp_path, classifier)
    folder = copy_of(paddle_report)
    (folder / "manifest.json").write_text('{"format": "paddle_infra.export/1", "inputs": 3}')
    with pytest.raises(ExportError, match="expected a complete manifest, got a damaged one"):
        verify(folder, classifier)
    (folder / "manifest.json").write_text('{"format": "other/9"}')
    with pytest.raises(ExportError, match=r"expected format 'paddle_infra\.export/1', got 'other/9'"):
        verify(folder, classifier)


# Inputs that prove nothing.


def test_inputs_that_prove_nothing_are_refused(
    onnx_report: ExportReport, classifier: paddle.nn.Layer
) -> None:
    with pytest.raises(InvalidInputError, match="at least one set of inputs, got an empty list"):
        verify(onnx_report.path, classifier, [])
    with pytest.raises(
        AxisMismatch, match="axis 'batch' is declared dynamic: expected inputs with at least two sizes"
    ):
        verify(onnx_report.path, classifier, token_examples())
    wrong = {**token_examples(), "attention_mask": np.ones((4, 9), "int32")}
    with pytest.raises(DtypeMismatch, match=r"'attention_mask': expected dtype int64, got int32"):
        verify(onnx_report.path, classifier, wrong)
    with pytest.raises(
        NameMismatch, match=r"expected tensors named \['input_ids', 'attention_mask'\], got \['x'\]"
    ):
        verify(onnx_report.path, classifier, {"x": np.ones((4, 9), "int64")})


def test_a_reference_that_fails_or_returns_nan_proves_nothing(onnx_report: ExportReport) -> None:
    def broken(inputs: dict[str, np.ndarray]) -> np.ndarray:
        raise RuntimeError("no memory left")

    def nan(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return np.full((len(inputs["input_ids"]), 3), np.nan, "float32")

    with pytest.raises(InvalidInputError, match=r"(?s)the model itself cannot run case #0 .*no memory left"):
        verify(onnx_report.path, broken)
    with pytest.raises(
        InvalidInputError, match=r"the model itself returns NaN in output 'logits' at index \[0, 0\]"
    ):
        verify(onnx_report.path, nan)


# Faults in a Paddle export that its hashes do not show.


def test_a_renamed_input_is_a_name_mismatch(
    paddle_report: ExportReport, classifier: paddle.nn.Layer, copy_of: Copy
) -> None:
    folder = copy_of(paddle_report)
    replace_text(folder / "model.json", '"attention_mask"', '"mask"')
    reseal(folder)
    with pytest.raises(
        NameMismatch, match=r"inputs: expected names \['input_ids', 'attention_mask'\], the model file has"
    ):
        verify(folder, classifier)


def test_a_wrong_attribute_is_a_value_mismatch(
    paddle_report: ExportReport, classifier: paddle.nn.Layer, copy_of: Copy
) -> None:
    folder = copy_of(paddle_report)
    replace_text(folder / "model.json", '{"#":"0.a_f64","D":0.2}', '{"#":"0.a_f64","D":0.25}')
    reseal(folder)
    with pytest.raises(
        ValueMismatch, match=r"tolerance 0\.0001; \d+ of \d+ elements differ, the largest absolute error"
    ):
        verify(folder, classifier)


def test_a_changed_weight_is_found_at_its_index(paddle_report: ExportReport) -> None:
    other = seeded(MaskedClassifier)
    bias = other.output.bias.numpy()
    bias[1] += 0.5  # only class 1 of every row
    other.output.bias.set_value(bias)
    with pytest.raises(
        ValueMismatch, match=r"'logits', case #0 .* at index \[0, 1\].*4 of 12 .*largest .* is 0\.5"
    ):
        verify(paddle_report.path, other)


def test_damaged_weights_that_the_engine_refuses_are_an_error(
    paddle_report: ExportReport, classifier: paddle.nn.Layer, copy_of: Copy
) -> None:
    folder = copy_of(paddle_report)
    (folder / "model.pdiparams").write_bytes((folder / "model.pdiparams").read_bytes()[:100])
    reseal(folder)
    with pytest.raises(
        VerificationError, match=r"the exported model cannot be run: .*while loading the model"
    ):
        verify(folder, classifier)


# Faults in an ONNX export that its hashes do not show.


def test_int32_for_int64_is_a_dtype_mismatch(
    onnx_report: ExportReport, classifier: paddle.nn.Layer, copy_of: Copy
) -> None:
    def narrow(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32

    folder = copy_of(onnx_report)
    edit_onnx(folder, narrow)
    with pytest.raises(
        DtypeMismatch, match=r"input 'input_ids': expected dtype int64, the model file has int32"
    ):
        verify(folder, classifier)


def test_a_declared_fixed_axis_is_an_axis_mismatch(
    onnx_report: ExportReport, classifier: paddle.nn.Layer, copy_of: Copy
) -> None:
    def fix(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4

    folder = copy_of(onnx_report)
    edit_onnx(folder, fix)
    with pytest.raises(
        AxisMismatch, match=r"expected axes \['batch', 'length'\], the model file has \[4, 'any'\]"
    ):
        verify(folder, classifier)


def last_node(model: onnx.ModelProto) -> onnx.NodeProto:
    """Return the node that writes the output, after giving its result another name."""
    node = next(n for n in model.graph.node if model.graph.output[0].name in n.output)
    node.output[0] = "before"
    return node


def test_a_baked_in_batch_size_is_an_axis_mismatch(
    onnx_report: ExportReport, classifier: paddle.nn.Layer, copy_of: Copy
) -> None:
    def bake(model: onnx.ModelProto) -> None:
        last_node(model)
        zeros = onnx.numpy_helper.from_array(np.zeros((4, 3), "float32"), "zeros")
        model.graph.initializer.append(zeros)
        # A sum that only batch 1 and 4 survive; its smallest element, times 0, leaves the values as they are.
        model.graph.node.extend(
            [
                onnx.helper.make_node("Add", ["before", "zeros"], ["sum"]),
                onnx.helper.make_node("ReduceMin", ["sum"], ["least"], keepdims=0),
                onnx.helper.make_node("Sub", ["least", "least"], ["nothing"]),
                onnx.helper.make_node("Add", ["before", "nothing"], ["logits"]),
            ]
        )

    folder = copy_of(onnx_report)
    edit_onnx(folder, bake)
    message = r"cannot run case #4 \(batch=7, length=5\), although it runs #0 .*6 of 14 cases fail\): an axis"
    with pytest.raises(AxisMismatch, match=message):
        verify(folder, classifier)


def test_a_cut_batch_is_an_axis_mismatch(
    onnx_report: ExportReport, classifier: paddle.nn.Layer, copy_of: Copy
) -> None:
    def cut(model: onnx.ModelProto) -> None:
        last_node(model)
        for name, value in (("start", 0), ("end", 4)):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], "int64"), name))
        model.graph.node.append(onnx.helper.make_node("Slice", ["before", "start", "end"], ["logits"]))

    folder = copy_of(onnx_report)
    edit_onnx(folder, cut)
    with pytest.raises(AxisMismatch, match=r"case #4 .*: expected shape \[7, 3\], got \[4, 3\]"):
        verify(folder, classifier)


def test_a_nan_output_is_a_value_mismatch(
    onnx_report: ExportReport, classifier: paddle.nn.Layer, copy_of: Copy
) -> None:
    def poison(model: onnx.ModelProto) -> None:
        last_node(model)
        value = onnx.numpy_helper.from_array(np.array([0, 0, np.nan], "float32"), "poison")
        model.graph.initializer.append(value)
        model.graph.node.append(onnx.helper.make_node("Add", ["before", "poison"], ["logits"]))

    folder = copy_of(onnx_report)
    edit_onnx(folder, poison)
    with pytest.raises(ValueMismatch, match=r"at index \[0, 2\], got nan.*largest absolute error is nan"):
        verify(folder, classifier)


# Ends of the fresh process: each must be a failure.


def install_worker(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Let a shell script stand for the Python interpreter of the fresh process."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(_process.sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo last words; kill -9 $$",
            r"was killed by signal 9 \(SIGKILL\); the end of its output:\nlast words",
        ),
        ("exit 3", "failed with exit code 3; it printed nothing"),
        ("exit 0", "ended without a result"),
        ("exec sleep 60", r"did not end within 0\.5 s"),
        ('printf "running case #2" > "$3/progress"; exit 1', "failed with exit code 1 while running case #2"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_a_failure(
    onnx_report: ExportReport,
    classifier: paddle.nn.Layer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    message: str,
) -> None:
    install_worker(monkeypatch, tmp_path, script)
    timeout_s = 0.5 if "sleep" in script else 60
    with pytest.raises(VerificationError, match=message):
        verify(onnx_report.path, classifier, timeout_s=timeout_s)
    assert os.listdir(tmp_path) == ["python"]
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
