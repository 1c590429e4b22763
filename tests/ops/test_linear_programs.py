"""linear in programs: training, saved programs, Paddle Inference in a fresh process."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra.ops import implementation, linear, set_matmul_precision
from tests.ops.fresh_process import python

# Paddle's own, from capturing a program with a gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")


class Net(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.first = paddle.nn.Linear(6, 16)
        self.second = paddle.nn.Linear(8, 3, bias_attr=False)

    def forward(self, x):
        hidden = linear(x, self.first.weight, self.first.bias, activation="swiglu")
        return linear(hidden, self.second.weight, activation="gelu")


def batch(rows):
    return paddle.to_tensor(np.random.default_rng(rows).standard_normal((rows, 6)).astype("float32"))


def train(net, forward):
    optimizer = paddle.optimizer.Adam(0.05, parameters=net.parameters())
    losses = []
    for step in range(6):
        x = batch(4 + step % 2)
        loss = ((forward(x) - x[:, :3]) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("full_graph", [True, False], ids=["ast", "sot"])
def test_to_static_training_equals_dygraph(precision, full_graph):
    results = []
    for is_static in (False, True):
        paddle.seed(5)
        net = Net()
        with implementation("fused"), set_matmul_precision(precision):
            results.append(train(net, paddle.jit.to_static(net, full_graph=full_graph) if is_static else net))
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[0][-1] < results[0][0]


def test_a_program_gives_gradients_of_inputs_it_was_not_captured_with():
    """Captured with an input without gradient, run with one that has one."""
    net = Net()
    program = paddle.jit.to_static(net, full_graph=True)
    with implementation("fused"):
        program(batch(3)).sum().backward()
        x = batch(3)
        x.stop_gradient = False
        program(x).sum().backward()
    expected = batch(3)
    expected.stop_gradient = False
    with implementation("reference"):
        hidden = linear(expected, net.first.weight, net.first.bias, activation="swiglu")
        linear(hidden, net.second.weight, activation="gelu").sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), expected.grad.numpy(), rtol=1e-4, atol=1e-6)


PREDICT = """
import sys
import numpy as np
import paddle_infra, paddle
from paddle_infra._core import extension

extension.require()
folder = sys.argv[1]
config = paddle.inference.Config(folder + "/net.json", folder + "/net.pdiparams")
config.disable_glog_info()
predictor = paddle.inference.create_predictor(config)
loaded = paddle.jit.load(folder + "/net")
for rows in (1, 5, 300):
    data = np.load(f"{folder}/{rows}.npz")
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(data["x"])
    predictor.run()
    found = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
    print("error", abs(found - data["y"]).max(), abs(loaded(paddle.to_tensor(data["x"])).numpy() - data["y"]).max())
try:
    loaded(paddle.ones([2, 7]))
except ValueError as error:
    print("refused", " ".join(str(error).split()))
"""


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_saved_program_runs_in_a_fresh_process(tmp_path, precision):
    net = Net()
    net.eval()
    spec = [paddle.static.InputSpec([None, 6], "float32")]
    with implementation("fused"), set_matmul_precision(precision), paddle.no_grad():
        for rows in (1, 5, 300):
            x = batch(rows)
            np.savez(tmp_path / f"{rows}.npz", x=x.numpy(), y=net(x).numpy())
        paddle.jit.save(paddle.jit.to_static(net, input_spec=spec, full_graph=True), str(tmp_path / "net"))
    assert "paddle_infra_linear" in (tmp_path / "net.json").read_text()
    lines = [line.split() for line in python(PREDICT, str(tmp_path)).splitlines() if line]
    errors = [float(word) for line in lines if line[0] == "error" for word in line[1:]]
    assert len(errors) == 6
    assert max(errors) < 1e-5
    assert any(line[0] == "refused" and "weight:" in line for line in lines)
