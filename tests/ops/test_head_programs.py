"""linear_focal and linear_binary_cross_entropy in captured and saved programs; cross entropy has its own file."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra.ops import implementation, linear_binary_cross_entropy, linear_focal
from tests.ops.fresh_process import python

# Paddle's own, from capturing a program with a gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")
KINDS = pytest.mark.parametrize("kind", ["focal", "binary"])
REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "none"])


class Head(paddle.nn.Layer):
    """A layer that returns its loss, with or without bias and class weights."""

    def __init__(self, kind: str, has_all: bool, reduction: str = "mean") -> None:
        super().__init__()
        self.kind, self.reduction = kind, reduction
        self.inner = paddle.nn.Linear(8, 8)
        self.head = paddle.nn.Linear(8, 5, bias_attr=None if has_all else False)
        self.class_weight = paddle.linspace(0.5, 1.5, 5) if has_all else None

    def forward(self, hidden, label):
        options = {"bias": self.head.bias, "softcap": 4.0, "weight_layout": "dv", "reduction": self.reduction}
        inputs = paddle.tanh(self.inner(hidden)), self.head.weight, label
        if self.kind == "focal":
            loss = linear_focal(*inputs, class_weight=self.class_weight, **options)
        else:
            loss = linear_binary_cross_entropy(*inputs, pos_weight=self.class_weight, **options)
        return loss.mean()


def batch(kind: str, rows: int = 6):
    rng = np.random.default_rng(rows)
    hidden = paddle.to_tensor(rng.standard_normal((rows, 8)).astype("float32"))
    label = np.arange(rows) % 5
    return hidden, paddle.to_tensor(label if kind == "focal" else np.eye(5, dtype="float32")[label])


def train(layer, forward):
    optimizer = paddle.optimizer.SGD(0.5, parameters=layer.parameters())
    losses = []
    for step in range(3):
        loss = forward(*batch(layer.kind, 6 + step))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    return losses


@KINDS
@REDUCTIONS
@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("full_graph", [True, False], ids=["ast", "sot"])
@pytest.mark.parametrize("has_all", [True, False], ids=["bias-weights", "plain"])
def test_to_static_training_equals_dygraph(kind, reduction, impl, full_graph, has_all):
    results = []
    for is_static in (False, True):
        paddle.seed(5)
        layer = Head(kind, has_all, reduction)
        with implementation(impl):
            forward = paddle.jit.to_static(layer, full_graph=full_graph) if is_static else layer
            results.append(train(layer, forward))
    assert results[1] == pytest.approx(results[0], rel=1e-6)
    assert results[0][-1] < results[0][0]


PREDICT = """
import sys
import numpy as np
import paddle_infra, paddle
from paddle_infra._core import extension

extension.require()
folder = sys.argv[1]
data = np.load(folder + "/data.npz")
config = paddle.inference.Config(folder + "/head.json", folder + "/head.pdiparams")
config.disable_glog_info()
predictor = paddle.inference.create_predictor(config)
for name in predictor.get_input_names():
    predictor.get_input_handle(name).copy_from_cpu(data[name])
predictor.run()
print("predictor", float(predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()))
loaded = paddle.jit.load(folder + "/head")
print("loaded", float(loaded(paddle.to_tensor(data["hidden"]), paddle.to_tensor(data["label"]))))
bad = data["label"].copy()
bad[4] = 77
try:
    loaded(paddle.to_tensor(data["hidden"]), paddle.to_tensor(bad))
except ValueError as error:
    print("error", str(error).replace(chr(10), " "))
"""
ERRORS = {
    "focal": "linear_focal: label[4] is 77; expected ignore_index (-100) or a class in [0, 5)",
    "binary": "linear_binary_cross_entropy: target of row 4, class 0 is 77; expected a number in [0, 1]",
}


@KINDS
@REDUCTIONS
def test_saved_program_runs_in_a_fresh_process(tmp_path, kind, reduction):
    layer = Head(kind, True, reduction)
    label_spec = ([None], "int64") if kind == "focal" else ([None, 5], "float32")
    spec = [
        paddle.static.InputSpec([None, 8], "float32", name="hidden"),
        paddle.static.InputSpec(*label_spec, name="label"),
    ]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(tmp_path / "head"))
    assert "paddle_infra_linear_cross_entropy_bias" in (tmp_path / "head.json").read_text()
    hidden, label = batch(kind, 9)
    np.savez(tmp_path / "data.npz", hidden=hidden.numpy(), label=label.numpy())
    lines = python(PREDICT, str(tmp_path)).splitlines()
    results = dict(
        line.split(" ", 1) for line in lines if line.split()[0] in ("predictor", "loaded", "error")
    )
    assert float(results["predictor"]) == pytest.approx(float(layer(hidden, label)), rel=1e-6)
    assert float(results["loaded"]) == pytest.approx(float(layer(hidden, label)), rel=1e-6)
    assert ERRORS[kind] in results["error"]
