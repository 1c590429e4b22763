"""linear_int8 wherever Paddle runs operators: programs, fresh processes, threads; instruction sets; memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra.export import to_onnx
from paddle_infra.ops import implementation, linear_int8, quantize_weight
from tests.ops.fresh_process import INSTRUCTION_SETS, python, python_with_isa

WIDTH = 24


class Block(paddle.nn.Layer):
    """Two quantized layers with something between them."""

    def __init__(self, has_bias: bool = True) -> None:
        super().__init__()
        first, second = paddle.nn.Linear(WIDTH, 2 * WIDTH), paddle.nn.Linear(2 * WIDTH, 7)
        for name, layer in (("first", first), ("second", second)):
            weight, scale = quantize_weight(layer.weight)
            self.register_buffer(f"{name}_weight", weight)
            self.register_buffer(f"{name}_scale", scale)
        self.bias = first.bias if has_bias else None

    def forward(self, x):
        x = linear_int8(x, self.first_weight, self.first_scale, bias=self.bias, activation="gelu_tanh")
        return linear_int8(x + 0.5, self.second_weight, self.second_scale, activation="silu")


def block(has_bias=True):
    paddle.seed(3)
    layer = Block(has_bias)
    layer.eval()
    return layer


def rows(*shape):
    return np.random.default_rng(shape).standard_normal((*shape, WIDTH)).astype("float32")


def result(forward, array):
    with paddle.no_grad():
        return forward(paddle.to_tensor(array)).numpy()


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("full_graph", [True, False], ids=["ast", "sot"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_to_static_equals_dygraph(impl, full_graph, has_bias):
    layer = block(has_bias)
    with implementation(impl):
        expected = [result(layer, rows(2, n)) for n in (3, 9)]
        program = paddle.jit.to_static(layer, full_graph=full_graph)
        found = [result(program, rows(2, n)) for n in (3, 9)]
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


PREDICT = """
import sys
import numpy as np
import paddle_infra, paddle
from paddle_infra._core import extension

extension.require()
folder, count = sys.argv[1], int(sys.argv[2])
config = paddle.inference.Config(folder + "/block.json", folder + "/block.pdiparams")
config.disable_glog_info()
predictor = paddle.inference.create_predictor(config)
loaded = paddle.jit.load(folder + "/block")
for i in range(count):
    data = np.load(f"{folder}/data{i}.npz")
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(data["x"])
    predictor.run()
    found = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
    print("predictor", (found == data["y"]).all())
    print("loaded", (loaded(paddle.to_tensor(data["x"])).numpy() == data["y"]).all())
"""


def test_saved_program_runs_in_a_fresh_process_with_other_sizes(tmp_path):
    layer = block()
    spec = [paddle.static.InputSpec([None, None, WIDTH], "float32", name="x")]
    with implementation("fused"):
        program = paddle.jit.to_static(block(), input_spec=spec, full_graph=True)
        paddle.jit.save(program, str(tmp_path / "block"))
    assert "paddle_infra_linear_int8" in (tmp_path / "block.json").read_text()
    sizes = [(1, 1), (2, 7), (3, 130)]
    for i, size in enumerate(sizes):
        np.savez(tmp_path / f"data{i}.npz", x=rows(*size), y=result(layer, rows(*size)))
    lines = python(PREDICT, str(tmp_path), str(len(sizes))).splitlines()
    assert [line for line in lines if line.startswith(("predictor", "loaded"))] == [
        "predictor True",
        "loaded True",
    ] * len(sizes)


def test_a_program_with_a_bad_shape_is_refused_when_it_runs():
    def program(x, weight, scale):
        return linear_int8(x, weight, scale, impl="fused")

    spec = [
        paddle.static.InputSpec([None, None], "float32"),
        paddle.static.InputSpec([None, None], "int8"),
        paddle.static.InputSpec([None], "float32"),
    ]
    compiled = paddle.jit.to_static(program, input_spec=spec, full_graph=True)
    weight = paddle.ones([4, 3], "int8")
    assert compiled(paddle.ones([2, 4]), weight, paddle.ones([3])).shape == [2, 3]
    with pytest.raises(
        ValueError, match=r"linear_int8: weight: expected shape \[K, N\] with K = 5 .*\[4, 3\]"
    ):
        compiled(paddle.ones([2, 5]), weight, paddle.ones([3]))
    with pytest.raises(ValueError, match=r"linear_int8: weight_scale: expected shape \[3\], got \[4\]"):
        compiled(paddle.ones([2, 4]), weight, paddle.ones([4]))


def test_onnx(tmp_path: Path) -> None:
    with implementation("reference"):
        report = to_onnx(
            block(),
            tmp_path / "export",
            {"x": rows(2, 3)},
            dynamic_axes={"x": {0: "batch", 1: "length"}},
        )
    assert report.verification.engine.startswith("onnxruntime ")


TARGET = """
import paddle_infra
from paddle_infra._core import extension
from tests.ops.linear_int8_cases import ACTIVATIONS, check, check_random_cases, make_case

for activation in ACTIVATIONS:
    for shape in ((1, 77, 1000), (130, 33, 77), (7, 300, 390)):
        check(make_case(*shape, activation))
check_random_cases(range(500, 540))
print(extension.require().isa)
"""


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_every_instruction_set(isa):
    assert python_with_isa(isa, TARGET).split()[-1] == isa


@pytest.mark.parametrize("most", ["SSE41", "AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_sums_are_exact_whatever_instructions_onednn_uses(most):
    """Without VNNI products of bytes may be summed in 16 bits, which does not hold two of the largest."""
    assert python(TARGET, ONEDNN_MAX_CPU_ISA=most).split()


THREADS = """
import hashlib
import paddle_infra
from tests.ops.linear_int8_cases import ACTIVATIONS, make_case, run

digest = hashlib.sha256()
for activation in ACTIVATIONS:
    for shape in ((1, 300, 1000), (77, 130, 77), (700, 48, 390)):
        digest.update(run(make_case(*shape, activation), "fused").tobytes())
print(digest.hexdigest())
"""


def test_bit_identical_for_any_number_of_threads():
    assert len({python(THREADS, OMP_NUM_THREADS=str(n)).split()[-1] for n in (1, 2, 3)}) == 1


CALLERS = """
import threading
import paddle_infra
from tests.ops.linear_int8_cases import ACTIVATIONS, make_case, run

cases = [make_case(5 + 40 * i, 16 + i, 30 + 100 * i, ACTIVATIONS[i % 5], seed=i) for i in range(8)]
def digest(case):
    return run(case, "fused").tobytes()
expected = [digest(case) for case in cases]
found = [set() for _ in cases]
def work(i):
    for _ in range(100):
        found[i].add(digest(cases[i]))
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(set(expected)), found == [{e} for e in expected])
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_eight_python_threads_get_exact_results(threads):
    assert python(CALLERS, OMP_NUM_THREADS=threads).split()[-2:] == ["8", "True"]


MEMORY = """
import sys
import paddle_infra, paddle
from paddle_infra.ops import linear_int8

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def step(rows, columns):
    tensors = paddle.ones([rows, 64]), paddle.ones([64, columns], "int8"), paddle.ones([columns])
    before = peak()
    y = linear_int8(*tensors, activation="gelu", impl=sys.argv[1])
    return (peak() - before) / (4 * y.size)

step(8, 8)
print(step(8192, 4096))
"""


def test_peak_memory_is_that_of_the_result():
    # In units of the result, 128 MB: plain Paddle holds the sums, in float64 and float32, beside it.
    assert float(python(MEMORY, "fused").split()[-1]) < 1.1
    assert float(python(MEMORY, "reference").split()[-1]) > 2.0
