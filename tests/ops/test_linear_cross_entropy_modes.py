"""The compiled operator wherever Paddle runs operators, and in threads."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import paddle
import pytest

from paddle_infra.ops import implementation, linear_cross_entropy
from tests.ops.fresh_process import INSTRUCTION_SETS, python, python_with_isa
from tests.ops.linear_cross_entropy_cases import EVERYTHING, make_case, run

# Paddle's own, from capturing a program with a gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")


class Head(paddle.nn.Layer):
    """A layer that returns its loss, with or without bias and class weights."""

    def __init__(self, has_bias: bool, has_class_weight: bool) -> None:
        super().__init__()
        self.inner = paddle.nn.Linear(8, 8)
        self.head = paddle.nn.Linear(8, 5, bias_attr=None if has_bias else False)
        self.class_weight = paddle.linspace(0.5, 1.5, 5) if has_class_weight else None

    def forward(self, hidden, label):
        return linear_cross_entropy(
            paddle.tanh(self.inner(hidden)),
            self.head.weight,
            label,
            bias=self.head.bias,
            class_weight=self.class_weight,
            label_smoothing=0.1,
            softcap=4.0,
            weight_layout="dv",
        )


def batch(rows=6):
    rng = np.random.default_rng(rows)
    return paddle.to_tensor(rng.standard_normal((rows, 8)).astype("float32")), paddle.to_tensor(
        np.arange(rows) % 5
    )


def train(layer, forward):
    optimizer = paddle.optimizer.SGD(0.5, parameters=layer.parameters())
    losses = []
    for step in range(3):
        loss = forward(*batch(6 + step))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("full_graph", [True, False], ids=["ast", "sot"])
@pytest.mark.parametrize("options", [(True, True), (False, False)], ids=["bias-weights", "plain"])
def test_to_static_training_equals_dygraph(impl, full_graph, options):
    results = []
    for is_static in (False, True):
        paddle.seed(5)
        layer = Head(*options)
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
    print("error", "label[4] is 77; expected ignore_index (-100) or a class in [0, 5)" in str(error))
"""


def test_saved_program_runs_in_a_fresh_process(tmp_path):
    layer = Head(True, True)
    spec = [
        paddle.static.InputSpec([None, 8], "float32", name="hidden"),
        paddle.static.InputSpec([None], "int64", name="label"),
    ]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(tmp_path / "head"))
    assert "paddle_infra_linear_cross_entropy_bias" in (tmp_path / "head.json").read_text()
    hidden, label = batch(9)
    np.savez(tmp_path / "data.npz", hidden=hidden.numpy(), label=label.numpy())
    lines = python(PREDICT, str(tmp_path)).splitlines()
    results = dict(line.split() for line in lines if line.split()[0] in ("predictor", "loaded", "error"))
    assert float(results["predictor"]) == pytest.approx(float(layer(hidden, label)), rel=1e-6)
    assert float(results["loaded"]) == pytest.approx(float(layer(hidden, label)), rel=1e-6)
    assert results["error"] == "True"


TARGET = """
import paddle_infra
from paddle_infra._core import extension
from tests.ops.linear_cross_entropy_cases import EVERYTHING, SHAPES_OF_TARGETS, check, check_medium, make_case

for shape in SHAPES_OF_TARGETS:
    for options in ({}, EVERYTHING):
        check(make_case(*shape, **options))
        if shape[2] > 16:
            check_medium(make_case(*shape, **options))
print(extension.require().isa)
"""


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_every_instruction_set(isa):
    assert python_with_isa(isa, TARGET).split()[-1] == isa


def test_eight_python_threads_at_once():
    sizes = [(150, 60, 9), (150, 60, 300), (70, 20, 2100)]  # a size for each mode
    cases = [make_case(*sizes[seed % 3], seed=seed, **(EVERYTHING if seed % 2 else {})) for seed in range(8)]
    expected = [digest_of(run(case, "fused")) for case in cases]
    found: list[list[str]] = [[] for _ in cases]

    def work(i: int) -> None:
        for _ in range(10):
            found[i].append(digest_of(run(cases[i], "fused")))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[digest] * 10 for digest in expected]


def digest_of(result):
    return hashlib.sha256(b"".join(value.tobytes() for value in result.values())).hexdigest()
