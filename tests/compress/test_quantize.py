"""Weight-only quantization: values by hand, every kind of layer, programs, exports, padding."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra import export, nn
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra.compress import Int4Linear, Int8Linear, dequantize_linears, quantize_linears
from tests.compress.models import DYNAMIC, MixedLinears, bert, logits_of, token_examples

FORMS: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "int4": {"bits": 4},
    "int4 groups": {"bits": 4, "group_size": 5},
}


def by_hand(weight: np.ndarray, largest: int, group: int) -> np.ndarray:
    """What the rounded weight must be, in float64."""
    out = np.empty(weight.shape)
    for start in range(0, len(weight), group):
        part = weight[start : start + group].astype(np.float64)
        scale = np.abs(part).max(0) / largest
        out[start : start + group] = np.round(part / scale) * scale
    return out


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_rounded_as_documented(form: str) -> None:
    paddle.seed(1)
    linear = paddle.nn.Sequential(paddle.nn.Linear(13, 7))
    options = FORMS[form]
    quantized = quantize_linears(linear, **options)[0]
    assert isinstance(quantized, Int4Linear if "group_size" in options else Int8Linear)
    expected = by_hand(
        linear[0].weight.numpy(), 127 if options["bits"] == 8 else 7, options.get("group_size", 13)
    )
    np.testing.assert_allclose(quantized.weight.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_int8_rounds_rows_of_the_input_too_and_int4_groups_do_not() -> None:
    paddle.seed(1)
    model = paddle.nn.Sequential(paddle.nn.Linear(13, 7))
    x = np.random.default_rng(0).normal(size=(5, 13)).astype(np.float32)
    rows = x.astype(np.float64)
    step = np.abs(rows).max(1, keepdims=True) / 127
    for form, inputs in (("int8", np.round(rows / step) * step), ("int4 groups", rows)):
        quantized = quantize_linears(model, **FORMS[form])
        expected = inputs @ quantized[0].weight.numpy().astype(np.float64) + model[0].bias.numpy()
        with paddle.no_grad():
            np.testing.assert_allclose(quantized(paddle.to_tensor(x)).numpy(), expected, atol=2e-6)


@pytest.mark.parametrize(("form", "relative"), [("int8", 0.06), ("int4", 0.06), ("int4 groups", 1e-6)])
def test_every_kind_of_linear_layer(form: str, relative: float) -> None:
    """Back in float32 only the rounding of inputs is gone: seven layers, two of them products of two roundings."""
    paddle.seed(2)
    model = MixedLinears()
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32))
    before = model(x).numpy()
    quantized = quantize_linears(model, **FORMS[form])
    kinds = (Int8Linear, Int4Linear)
    assert sum(isinstance(layer, kinds) for layer in quantized.sublayers()) == 7
    assert quantized.again is quantized.gelu
    assert not any(isinstance(layer, kinds) for layer in model.sublayers())
    with paddle.no_grad():
        after = quantized(x).numpy()
        back = dequantize_linears(quantized)(x).numpy()
    largest = np.abs(back).max()
    assert np.abs(after - back).max() <= relative * largest
    assert np.abs(back - before).max() > 1e-3 * largest


@pytest.mark.parametrize("form", FORMS)
def test_padding_and_other_rows_change_nothing(form: str) -> None:
    model = quantize_linears(bert(), **FORMS[form])
    examples = token_examples()
    together = logits_of(model, examples)
    for row, length in enumerate(examples["attention_mask"].sum(1)):
        alone = {name: value[row : row + 1, :length] for name, value in examples.items()}
        np.testing.assert_allclose(logits_of(model, alone)[0], together[row], atol=2e-6)


@pytest.mark.parametrize("form", ["int8", pytest.param("int4", marks=pytest.mark.slow), "int4 groups"])
def test_exports_are_the_quantized_model(form: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, examples = quantize_linears(bert(num_hidden_layers=1), **FORMS[form]), token_examples()
    report = export.to_inference(model, tmp_path / "paddle", examples, dynamic_axes=DYNAMIC, atol=1e-6)
    assert ("paddle_infra_linear_int8" in report.manifest.custom_operators) == (form != "int4 groups")
    # Every linear weight takes one byte instead of four; with groups it takes four as before.
    floats = sum(parameter.size for parameter in bert(num_hidden_layers=1).parameters())
    weights = sum(x.weight.size for x in model.sublayers() if isinstance(x, (Int4Linear, Int8Linear)))
    size = (report.path / "model.pdiparams").stat().st_size
    assert 0 < size - (4 * floats - (0 if form == "int4 groups" else 3 * weights)) < 6000
    # Engines add in another order, and a difference of 1e-7 may move a number over a rounding border: then the whole
    # step of one input, 1/127 of its row's largest, shows in the output. That is rare: most cases are exact.
    step = 1e-5 if form == "int4 groups" else 0.05
    report = export.to_onnx(
        model, tmp_path / "onnx", examples, dynamic_axes=DYNAMIC, converter="native", atol=step
    )
    assert np.median([case.max_error for case in report.verification.cases]) < 1e-5
    assert report.manifest.converter is not None
    assert report.manifest.converter.startswith("native")


def test_under_to_static() -> None:
    paddle.seed(2)
    model = quantize_linears(MixedLinears())
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32))
    with paddle.no_grad():
        expected = model(x).numpy()
        spec = [paddle.static.InputSpec([None, 12], "float32")]
        static = paddle.jit.to_static(model, input_spec=spec, full_graph=True)
        np.testing.assert_allclose(static(x).numpy(), expected, atol=1e-6)


def test_in_place_by_name_and_the_state() -> None:
    model = bert()
    weight = model.encoder.stack.layers[0].intermediate.weight.numpy()
    other = model.encoder.stack.layers[0].output
    same = quantize_linears(model, names="*.intermediate", exclude=["*layers.1.*"], in_place=True)
    assert same is model
    changed = [name for name, layer in model.named_sublayers() if isinstance(layer, Int8Linear)]
    assert changed == [f"encoder.stack.layers.{i}.intermediate" for i in (0, 2)]
    assert model.encoder.stack.layers[0].output is other
    state = model.state_dict()
    name = "encoder.stack.layers.0.intermediate"
    assert {f"{name}.{part}" for part in ("weight_int8", "weight_scale", "bias")} <= set(state)
    assert f"{name}.weight" not in state
    assert not model.encoder.stack.layers[0].intermediate.training
    rebuilt = state[f"{name}.weight_int8"].astype("float32") * state[f"{name}.weight_scale"]
    assert np.abs(rebuilt.numpy() - weight).max() <= state[f"{name}.weight_scale"].numpy().max() / 2 + 1e-7


def test_a_copied_or_loaded_quantized_model_is_the_same() -> None:
    model, examples = quantize_linears(bert()), token_examples()
    other = quantize_linears(bert(initializer_range=0.1))
    assert np.abs(logits_of(other, examples) - logits_of(model, examples)).max() > 1e-3
    other.set_state_dict(model.state_dict())
    assert (logits_of(other, examples) == logits_of(model, examples)).all()
    assert (logits_of(copy.deepcopy(model), examples) == logits_of(model, examples)).all()


def test_zero_columns_and_groups() -> None:
    model = paddle.nn.Sequential(paddle.nn.Linear(4, 3))
    model[0].weight.set_value(np.diag([1.0, 0, 3]).astype("float32")[[0, 1, 2, 2]])
    for options in FORMS.values():
        np.testing.assert_allclose(quantize_linears(model, **options)[0].weight, model[0].weight, atol=1e-6)


class Derived(paddle.nn.Linear):
    """A class whose forward nobody knows."""


def hooked() -> paddle.nn.Layer:
    model = paddle.nn.Sequential(paddle.nn.Linear(2, 2))
    model[0].register_forward_post_hook(lambda layer, inputs, output: output)
    return model


def infinite() -> paddle.nn.Layer:
    model = paddle.nn.Sequential(paddle.nn.Linear(2, 2))
    model[0].weight.set_value(paddle.to_tensor([[1.0, float("inf")], [0.0, 1.0]]))
    return model


@pytest.mark.parametrize(
    ("model", "options", "error", "text"),
    [
        (lambda: 3, {}, InvalidDtypeError, "expected a paddle.nn.Layer, got int"),
        (bert, {"bits": 2}, InvalidInputError, "bits: expected 8 or 4, got 2"),
        (bert, {"group_size": 8}, InvalidInputError, "group_size: expected None with 8 bits, got 8"),
        (bert, {"bits": 4, "group_size": 0}, InvalidInputError, "expected a positive integer, got 0"),
        (bert, {"names": "*.nothing"}, InvalidInputError, r"one of .*intermediate.*, got '\*.nothing'"),
        (bert, {"exclude": ["nothing"]}, InvalidInputError, "got 'nothing'"),
        (lambda: paddle.nn.Sequential(Derived(2, 2)), {}, UnsupportedError, "got Derived: exclude it"),
        (hooked, {}, UnsupportedError, "got one with hooks"),
        (infinite, {}, InvalidInputError, "expected finite numbers"),
        (infinite, {"bits": 4}, InvalidInputError, "expected finite numbers"),
        (lambda: bert().to(dtype="float64"), {}, UnsupportedError, "expected a float32 weight, got float64"),
    ],
)
def test_errors(model: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        quantize_linears(model(), **options)


def test_nothing_is_changed_by_a_refusal() -> None:
    model = paddle.nn.Sequential(paddle.nn.Linear(2, 2), Derived(2, 2), nn.Linear(2, 2))
    with pytest.raises(UnsupportedError, match="Derived"):
        quantize_linears(model, in_place=True)
    assert type(model[0]) is paddle.nn.Linear


def test_training_is_refused_clearly() -> None:
    model = quantize_linears(bert())
    examples = {name: paddle.to_tensor(value) for name, value in token_examples().items()}
    with pytest.raises(UnsupportedError, match="linear_int8: expected tensors that need no gradient"):
        model(**examples)


def test_codes_of_a_changed_weight_are_refused() -> None:
    model = quantize_linears(paddle.nn.Sequential(paddle.nn.Linear(8, 2)), bits=4, group_size=4)
    assert np.abs(model[0].codes().numpy()).max() == 7
    model[0].weight.set_value(model[0].weight + 0.01)
    with pytest.raises(InvalidInputError, match="expected codes from -7 to 7 times weight_scale"):
        model[0].codes()
