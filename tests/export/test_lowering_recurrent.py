"""Recurrent networks against Paddle's, in ONNX Runtime, at other sizes than they were traced with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

import paddle_infra as pi
from paddle_infra._core.errors import UnsupportedError
from paddle_infra.export.spec import TensorSpec, output_specs
from tests.export.lowering_cases import normal
from tests.export.recurrent_cases import RECURRENT_CASES
from tests.export.test_lowering import assert_equal, input_specs, outputs_of, session

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", RECURRENT_CASES)
def test_a_network(name: str, tmp_path: Path) -> None:
    case = RECURRENT_CASES[name]
    network = case.function
    expected = outputs_of(network, case.inputs)
    outputs = output_specs(list(expected), [expected], [dict.fromkeys("?", 0)], None)
    run = session(network, tmp_path, input_specs(case), outputs, opset=17)
    assert_equal(run.run(list(expected), case.inputs), expected, case.atol)
    rows = {
        name: np.concatenate([a, a[:, ::-1]], 1 if name == "z" else 0)
        for name, a in case.inputs.items()
        if name != "y"
    }
    if "y" in case.inputs:
        rows["y"] = np.array([2, 6, 5, 6, 1, 3])
    assert_equal(run.run(list(expected), rows), outputs_of(network, rows), case.atol)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_the_librarys_layers_with_rows_of_every_length(kind: str, tmp_path: Path) -> None:
    paddle.seed(0)
    layer = Recurrent(getattr(pi.nn, kind)(4, 5, num_layers=2, bidirectional=True, dropout=0.2))
    layer.eval()
    inputs = {"x": normal(4, 6, 4), "y": np.array([6, 1, 4, 3])}
    expected = outputs_of(layer, inputs)
    specs = (TensorSpec("x", "float32", ("batch", "length", 4)), TensorSpec("y", "int64", ("batch",)))
    outputs = output_specs(list(expected), [expected], [dict.fromkeys("?", 0)], None)
    run = session(layer, tmp_path, specs, outputs, opset=17)
    for lengths in ([6, 1, 4, 3], [0, 2, 6, 0], [0, 0]):
        rows = {"x": normal(len(lengths), 6, 4), "y": np.array(lengths)}
        assert_equal(run.run(list(expected), rows), outputs_of(layer, rows), 1e-5)


class Recurrent(paddle.nn.Layer):
    def __init__(self, network: paddle.nn.Layer) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: paddle.Tensor, y: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        output, states = self.network(x, y)
        return (output, *states)


class ScaledWeights(paddle.nn.Layer):
    """A network whose weights are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.network = paddle.nn.GRU(4, 5)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        weights = [weight * x.mean() for weight in self.network._all_weights]
        zeros = paddle.zeros([1, x.shape[0], 5])
        return paddle._C_ops.rnn(
            x.transpose([1, 0, 2]), [zeros], weights, None, self.network._dropout_state,
            0.0, False, 4, 5, 1, "GRU", 0, True,
        )[0]  # fmt: skip


def test_computed_weights_are_refused(tmp_path: Path) -> None:
    specs = (TensorSpec("x", "float32", ("batch", "length", 4)),)
    outputs = (TensorSpec("output", "float32", ("length", "batch", 5)),)
    with pytest.raises(UnsupportedError, match=r"pd_op\.rnn.* four constants for each layer and direction"):
        session(ScaledWeights(), tmp_path, specs, outputs, opset=17)
