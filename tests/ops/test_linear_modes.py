"""linear: ONNX, the precision that a pass or a program has, what the operator itself refuses, memory."""

from __future__ import annotations

import re

import numpy as np
import paddle
import pytest

from paddle_infra.export import to_onnx
from paddle_infra.ops import implementation, linear, set_matmul_precision
from tests.ops.fresh_process import python
from tests.ops.linear_cases import ACTIVATIONS, make_case

WIDTH = 12


class Net(paddle.nn.Layer):
    """Every activation once."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = paddle.nn.LayerList(paddle.nn.Linear(WIDTH, WIDTH) for _ in ACTIVATIONS)
        self.last = paddle.nn.Linear(WIDTH // 2, 3, bias_attr=False)

    def forward(self, x):
        for layer, activation in zip(self.layers, ACTIVATIONS):  # noqa: B905 - Paddle converts zip without keywords only
            x = linear(x, layer.weight, layer.bias, activation=activation)
        return linear(x, self.last.weight)


def test_onnx(tmp_path):
    paddle.seed(3)
    net = Net()
    net.eval()
    x = np.random.default_rng(0).standard_normal((2, 3, WIDTH)).astype("float32")
    with implementation("reference"):
        report = to_onnx(net, tmp_path / "net", {"x": x}, dynamic_axes={"x": {0: "batch", 1: "length"}})
    assert report.verification.engine.startswith("onnxruntime ")


def tensors_of(case, stop_gradient=True):
    return [paddle.to_tensor(a, stop_gradient=stop_gradient) for a in (case.x, case.weight, case.bias)]


def test_medium_is_another_result_that_is_near():
    tensors = tensors_of(make_case(40, 60, 50))
    exact = linear(*tensors, impl="fused").numpy()
    with set_matmul_precision("medium"):
        rough = linear(*tensors, impl="fused").numpy()
        plain = linear(*tensors, impl="reference").numpy()
    assert 1e-4 < np.abs(exact - rough).max() / np.abs(exact).max() < 0.02
    np.testing.assert_array_equal(plain, linear(*tensors, impl="reference").numpy())


def test_a_program_keeps_the_precision_it_was_captured_with():
    tensors = tensors_of(make_case(9, 30, 20))
    exact = linear(*tensors, impl="fused").numpy()

    def compute(x, weight, bias):
        return linear(x, weight, bias, impl="fused")

    program = paddle.jit.to_static(compute, full_graph=True)
    with set_matmul_precision("medium"):
        rough = linear(*tensors, impl="fused").numpy()
        np.testing.assert_array_equal(program(*tensors).numpy(), rough)
    np.testing.assert_array_equal(program(*tensors).numpy(), rough)
    assert (exact != rough).any()


WRONG_OPERATOR = {
    "weight": (
        {"weight": [7, 5]},
        "weight: expected shape [K, N] with K the last axis of x [4, 6], got [7, 5]",
    ),
    "rank": ({"weight": [6]}, "weight: expected shape [K, N] with K the last axis of x [4, 6], got [6]"),
    "bias": ({"bias": [6]}, "bias: expected shape [5], got [6]"),
    "activation": ({"activation": 6}, "activation: expected 0 to 5, got 6"),
    "odd": ({"activation": 5}, "weight: expected an even number of columns for swiglu, got 5"),
    "precision": ({"precision": 2}, "precision: expected 0 (highest) or 1 (medium), got 2"),
    "packed": ({"packed": [6, 4]}, "packed weight: expected shape [6, 5], got [6, 4]"),
}


@pytest.mark.parametrize("name", WRONG_OPERATOR)
def test_the_operator_checks_too(name):
    change, message = WRONG_OPERATOR[name]
    given = {"x": [4, 6], "weight": [6, 5], "bias": [5], "packed": None, "activation": 0, "precision": 0}
    given |= change
    x, weight, bias = (paddle.zeros(given[key]) for key in ("x", "weight", "bias"))
    packed = None if given["packed"] is None else paddle.zeros(given["packed"], "bfloat16")
    numbers = given["activation"], given["precision"], False, False, False
    with pytest.raises(ValueError, match=re.escape(f"linear: {message}")):
        paddle._C_ops._run_custom_op("paddle_infra_linear_bias", x, weight, bias, packed, *numbers)


MEMORY = """
import paddle_infra, paddle
from paddle_infra.ops import linear, pack_weight, set_matmul_precision

def resident():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmRSS"))

x, weight, bias = paddle.randn([60, 40]), paddle.randn([40, 50]), paddle.randn([50])
for tensor in (x, weight, bias):
    tensor.stop_gradient = False

def calls(count):
    for i in range(count):
        with set_matmul_precision("medium" if i % 2 else "highest"):
            packed = pack_weight(weight) if i % 4 == 3 else None
            y = linear(x, weight, bias, activation="swiglu" if i % 3 else "gelu", packed_weight=packed)
            paddle.grad(y.sum(), [x, weight, bias])

calls(500)
before = resident()
calls(2000)
print((resident() - before) / 1e6)
"""


def test_memory_does_not_grow():
    # One tensor of a call, 12 KB, kept by each would be 24 MB.
    assert float(python(MEMORY).split()[-1]) < 4.0


PEAK = """
import sys
import paddle_infra, paddle
from paddle_infra.ops import linear, set_matmul_precision

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def step(rows):
    x, weight = paddle.ones([rows, 64]), paddle.ones([64, 4096])
    before = peak()
    with paddle.no_grad(), set_matmul_precision("medium"):
        y = linear(x, weight, activation="swiglu", impl=sys.argv[1])
    return (peak() - before) / (4 * y.size)

step(8)
print(step(8192))
"""


def test_inference_does_not_store_what_the_activation_takes():
    # In units of the result, 64 MB: plain Paddle holds both halves of z beside it.
    assert float(python(PEAK, "fused").split()[-1]) < 1.2
    assert float(python(PEAK, "reference").split()[-1]) > 2.5
