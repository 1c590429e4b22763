from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core import extension
from paddle_infra._core.atomic import sha256_of
from paddle_infra._core.errors import (
    ExportError,
    InvalidDtypeError,
    InvalidInputError,
    NameMismatch,
    StorageError,
    ValueMismatch,
)
from paddle_infra.export import ExportReport, to_inference
from paddle_infra.models import BertConfig, BertForSequenceClassification
from tests.export.models import DYNAMIC, LABELS, Encoder, MaskedClassifier, debris, seeded, token_examples


class CountsCalls(nn.Layer):
    """Adds the number of calls so far: the traced program keeps the number it saw, the model goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + float(self.calls)


class Upsample(nn.Layer):
    """Has a list of float64 as attribute, which Paddle's oneDNN instructions refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2D(3, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return F.interpolate(self.convolution(image), scale_factor=2, mode="bilinear")


class Exponential(nn.Layer):
    def forward(self, x: Tensor) -> Tensor:
        return paddle.exp(x)


class Loss(nn.Layer):
    """Holds one of the package's compiled operators."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.create_parameter([11, 8])

    def forward(self, hidden: Tensor, label: Tensor) -> Tensor:
        return ops.linear_cross_entropy(hidden, self.weight, label, reduction="none")


class Untraceable(nn.Layer):
    def forward(self, x: Tensor) -> Tensor:
        if not paddle.in_dynamic_mode():
            raise RuntimeError("only with numbers at hand")
        return x


class UsesNumpy(nn.Layer):
    """Paddle traces this without complaint, into a program that multiplies with something else."""

    def forward(self, x: Tensor) -> Tensor:
        return x * np.asarray(x).sum()


def test_a_right_export_is_complete_and_measured(paddle_report: ExportReport) -> None:
    manifest = json.loads((paddle_report.path / "manifest.json").read_text())
    expected = ["README.md", "example_inputs.npz", "model.json", "model.pdiparams", "tokenizer.json"]
    assert sorted(manifest["files"]) == expected
    assert debris(paddle_report.path) == sorted([*expected, "manifest.json"])
    assert debris(paddle_report.path.parent) == ["export", "tokenizer.json"]
    for name, digest in manifest["files"].items():
        assert sha256_of(paddle_report.path / name) == digest
    assert manifest["inputs"][0] == {"name": "input_ids", "dtype": "int64", "shape": ["batch", "length"]}
    assert manifest["outputs"] == [
        {"name": "logits", "dtype": "float32", "shape": ["batch", 3]},
        {"name": "pooled", "dtype": "float32", "shape": ["batch", 16]},
    ]
    assert manifest["labels"] == list(LABELS)
    assert manifest["custom_operators"] == []
    assert manifest["metadata"] == {"name": "Masked classifier", "epochs": 3}
    assert manifest["versions"]["paddlepaddle"] == paddle.__version__
    assert 0 <= manifest["verification"]["max_error"] < 1e-5


def test_every_combination_of_sizes_was_run(paddle_report: ExportReport) -> None:
    sizes = [(case.sizes["batch"], case.sizes["length"]) for case in paddle_report.verification.cases]
    edges = [(4, 9)] * 3 + [(1, 1)]
    assert sizes == [(4, 9), *((batch, length) for batch in (1, 7, 32) for length in (5, 16, 64)), *edges]
    assert all(set(case.max_errors) == {"logits", "pooled"} for case in paddle_report.verification.cases)
    assert paddle_report.verification.engine == f"paddle.inference {paddle.__version__}"


def test_the_model_is_left_as_it_was(classifier: nn.Layer, paddle_report: ExportReport) -> None:
    assert classifier.training
    assert classifier.dropout.training
    assert not classifier.hidden.training
    fresh = seeded(MaskedClassifier).state_dict()
    state = classifier.state_dict()
    assert list(state) == list(fresh)
    for name, value in fresh.items():
        np.testing.assert_array_equal(state[name].numpy(), value.numpy())
        assert not state[name].stop_gradient
    inputs = {name: paddle.to_tensor(value) for name, value in token_examples().items()}
    classifier(**inputs)["logits"].sum().backward()
    assert classifier.embedding.weight.grad is not None
    classifier.clear_gradients()


def test_a_failed_export_leaves_nothing_and_keeps_the_old_one(
    copy_of: Callable[[ExportReport], Path], paddle_report: ExportReport
) -> None:
    old = copy_of(paddle_report)
    before = {entry.name: entry.read_bytes() for entry in old.iterdir()}
    inputs = {"x": np.ones((2, 3), "float32")}
    with pytest.raises(
        ValueMismatch, match=r"output 'logits', case #0 \(fixed shape\): expected 2.0 at index"
    ):
        to_inference(CountsCalls(), old, inputs)
    assert {entry.name: entry.read_bytes() for entry in old.iterdir()} == before
    assert debris(old.parent) == [old.name]


def test_interpolation_runs_although_onednn_refuses_its_attributes(tmp_path: Path) -> None:
    image = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype("float32")
    axes = {"image": {0: "batch", 2: "height", 3: "width"}}
    report = to_inference(
        seeded(Upsample), tmp_path / "export", {"image": image}, dynamic_axes=axes, output_names=["y"]
    )
    assert report.manifest.outputs[0].shape == ("batch", 4, "y_axis2", "y_axis3")


def test_a_transformer_layer_with_two_outputs(tmp_path: Path) -> None:
    names = ("logits", "classes")
    report = to_inference(
        seeded(Encoder), tmp_path / "export", token_examples(), dynamic_axes=DYNAMIC, output_names=names
    )
    assert [spec.dtype for spec in report.manifest.outputs] == ["float32", "int64"]
    assert report.manifest.outputs[0].shape == ("batch", "length", 3)


def test_a_model_without_parameters(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3)).astype("float32")
    report = to_inference(
        Exponential(), tmp_path / "export", {"x": x}, dynamic_axes={"x": {0: "n"}}, output_names=["y"]
    )
    assert report.manifest.parameters is None
    assert "model.pdiparams" not in report.manifest.files


def test_a_compiled_operator_is_kept_and_runs_in_a_fresh_process(tmp_path: Path) -> None:
    if not extension.load().is_loaded:
        pytest.skip(extension.status().explain())
    inputs = {
        "hidden": np.random.default_rng(0).standard_normal((3, 8)).astype("float32"),
        "label": np.array([1, 10, 3]),
    }
    axes = {"hidden": {0: "batch"}, "label": {0: "batch"}}
    report = to_inference(seeded(Loss), tmp_path / "export", inputs, dynamic_axes=axes, output_names=["loss"])
    assert report.manifest.custom_operators == ("paddle_infra_linear_cross_entropy",)
    assert "Needs the compiled operators of paddle_infra" in (report.path / "README.md").read_text()


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    model = nn.Linear(100, 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a write beyond fails, as on a full disk
    try:
        with pytest.raises(
            StorageError, match=r"model\.pdiparams was not written completely.*at least 40440 bytes"
        ):
            to_inference(model, tmp_path / "export", {"input": np.ones((1, 100), "float32")})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert debris(tmp_path) == []


def test_an_untraceable_model_is_an_export_error(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"(?s)Paddle cannot trace Untraceable: .*only with numbers at hand"
    ):
        to_inference(Untraceable(), tmp_path / "export", {"x": np.ones((2, 3), "float32")})
    assert debris(tmp_path) == []


def test_a_silently_wrong_trace_is_caught(tmp_path: Path) -> None:
    with pytest.raises(ValueMismatch, match=r"expected 6\.0 at index \[0, 0\], got"):
        to_inference(UsesNumpy(), tmp_path / "export", {"x": np.ones((2, 3), "float32")})
    assert debris(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"example_inputs": {}}, InvalidInputError, "expected a non-empty dict of arrays by name, got {}"),
        (
            {"example_inputs": {"ids": np.ones((1, 2))}},
            NameMismatch,
            r"requires \['input_ids'\].*unknown \['ids'\]",
        ),
        (
            {"example_inputs": {"input_ids": np.ones((0, 2), "int64")}},
            InvalidInputError,
            "at least one element",
        ),
        (
            {"example_inputs": {"input_ids": np.array(["a"])}},
            InvalidDtypeError,
            "expected numbers or booleans",
        ),
        (
            {"dynamic_axes": {"nothing": {0: "batch"}}},
            InvalidInputError,
            r"dynamic_axes: expected names among",
        ),
        (
            {"dynamic_axes": {"input_ids": {2: "x"}}},
            InvalidInputError,
            r"expected an axis of shape \(4, 9\), got 2",
        ),
        ({"output_names": "logits"}, InvalidInputError, "expected a list of distinct names, got 'logits'"),
        (
            {"output_names": ["missing"]},
            NameMismatch,
            r"the model returns \['pooled', 'logits'\]: no \['missing'\]",
        ),
        (
            {"labels": ["a", "b"]},
            InvalidInputError,
            "each of the 3 classes on the last axis of 'logits', got 2",
        ),
        ({"labels": ["a", "a", "b"]}, InvalidInputError, "expected a list of distinct texts"),
        ({"metadata": {"x": object()}}, InvalidInputError, "metadata: expected plain JSON values"),
        ({"extra_files": ["/no/such/file"]}, InvalidInputError, "expected existing files, got /no/such/file"),
        ({"verify_inputs": []}, InvalidInputError, "at least one set of inputs, got an empty list"),
        ({"atol": float("nan")}, InvalidInputError, "atol: expected a finite number >= 0, got nan"),
    ],
)
def test_bad_arguments_are_refused(
    tmp_path: Path, classifier: nn.Layer, changes: dict, error: type[Exception], message: str
) -> None:
    arguments = {"example_inputs": token_examples(), "dynamic_axes": None, **changes}
    with pytest.raises(error, match=message):
        to_inference(classifier, tmp_path / "export", **arguments)
    assert debris(tmp_path) == []


def test_a_folder_with_other_files_is_never_replaced(
    tmp_path: Path, classifier: nn.Layer, copy_of: Callable[[ExportReport], Path], paddle_report: ExportReport
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InvalidInputError, match=r"expected a new or empty folder.*thesis\.txt"):
        to_inference(classifier, tmp_path, token_examples())
    with pytest.raises(InvalidInputError, match="expected a folder to export to, got a file"):
        to_inference(classifier, tmp_path / "thesis.txt", token_examples())
    old = copy_of(paddle_report)
    (old / "notes.txt").write_text("mine")
    with pytest.raises(
        InvalidInputError, match=r"files that no export wrote and that would be lost: \['notes\.txt'\]"
    ):
        to_inference(classifier, old, token_examples())
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_only_a_layer_can_be_exported(tmp_path: Path) -> None:
    with pytest.raises(InvalidDtypeError, match=r"expected a paddle\.nn\.Layer, got function"):
        to_inference(lambda x: x, tmp_path / "export", {"x": np.ones(3)})


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_layers_of_the_package_are_exported_with_compiled_or_plain_operators(
    tmp_path: Path, impl: str
) -> None:
    paddle.seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=24,
        max_position_embeddings=80,
        labels=LABELS,
    )
    model = BertForSequenceClassification(config)
    examples = token_examples()
    examples["input_ids"] %= 40
    with ops.implementation(impl):
        report = to_inference(model, tmp_path / "bert", examples, dynamic_axes=DYNAMIC)
    found = set(report.manifest.custom_operators)
    assert report.verification.max_error < 1e-4
    if impl == "reference":
        assert found == set()
    else:
        assert {"paddle_infra_attention", "paddle_infra_linear_bias"} <= found
