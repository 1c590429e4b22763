"""linear_topk wherever Paddle runs operators: programs, fresh processes, threads; instruction sets; memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra.export import to_onnx
from paddle_infra.ops import implementation, linear_topk, linear_topk_log_prob
from tests.ops.fresh_process import INSTRUCTION_SETS, python, python_with_isa

FEATURES, CLASSES, K = 8, 700, 5


class Head(paddle.nn.Layer):
    """The most probable classes of a linear head, from another layer's output."""

    def __init__(self, has_bias: bool = True) -> None:
        super().__init__()
        self.inner = paddle.nn.Linear(FEATURES, FEATURES)
        self.head = paddle.nn.Linear(FEATURES, CLASSES, bias_attr=None if has_bias else False)

    def forward(self, hidden):
        hidden = paddle.tanh(self.inner(hidden))
        prob, index = linear_topk(
            hidden, self.head.weight, K, bias=self.head.bias, softcap=4.0, weight_layout="dv"
        )
        log_prob, _ = linear_topk_log_prob(hidden, self.head.weight, K, weight_layout="dv")
        return prob, index, log_prob


def head(has_bias=True):
    paddle.seed(3)
    layer = Head(has_bias)
    layer.eval()
    return layer


def rows(*shape):
    return np.random.default_rng(shape).standard_normal((*shape, FEATURES)).astype("float32")


def results(forward, array):
    with paddle.no_grad():
        return [x.numpy() for x in forward(paddle.to_tensor(array))]


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("full_graph", [True, False], ids=["ast", "sot"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_to_static_equals_dygraph(impl, full_graph, has_bias):
    layer = head(has_bias)
    with implementation(impl):
        expected = [results(layer, rows(2, n)) for n in (3, 9)]
        program = paddle.jit.to_static(layer, full_graph=full_graph)
        found = [results(program, rows(2, n)) for n in (3, 9)]
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other[0], one[0], rtol=1e-5)
        np.testing.assert_array_equal(other[1], one[1])
        np.testing.assert_allclose(other[2], one[2], rtol=1e-5)


PREDICT = """
import sys
import numpy as np
import paddle_infra, paddle
from paddle_infra._core import extension

extension.require()
folder, count = sys.argv[1], int(sys.argv[2])
config = paddle.inference.Config(folder + "/head.json", folder + "/head.pdiparams")
config.disable_glog_info()
predictor = paddle.inference.create_predictor(config)
loaded = paddle.jit.load(folder + "/head")
for i in range(count):
    data = np.load(f"{folder}/data{i}.npz")
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(data["hidden"])
    predictor.run()
    handles = [predictor.get_output_handle(name) for name in predictor.get_output_names()]
    for kind, found in (
        ("predictor", [handle.copy_to_cpu() for handle in handles]),
        ("loaded", [x.numpy() for x in loaded(paddle.to_tensor(data["hidden"]))]),
    ):
        same = (found[1] == data["out1"]).all() and found[1].dtype == np.int64
        close = all(np.allclose(found[j], data[f"out{j}"], rtol=1e-5) for j in (0, 2))
        print(kind, same and close)
"""


def save(layer, path):
    spec = [paddle.static.InputSpec([None, None, FEATURES], "float32", name="hidden")]
    with implementation("fused"):
        program = paddle.jit.to_static(layer, input_spec=spec, full_graph=True)
        paddle.jit.save(program, str(path))


def test_saved_program_runs_in_a_fresh_process_with_other_sizes(tmp_path):
    layer = head()
    save(layer, tmp_path / "head")
    assert "paddle_infra_linear_topk" in (tmp_path / "head.json").read_text()
    sizes = [(1, 1), (2, 7), (3, 130)]
    for i, size in enumerate(sizes):
        expected = results(layer, rows(*size))
        arrays = {f"out{j}": x for j, x in enumerate(expected)}
        np.savez(tmp_path / f"data{i}.npz", hidden=rows(*size), **arrays)
    lines = python(PREDICT, str(tmp_path), str(len(sizes))).splitlines()
    assert [line for line in lines if line.startswith(("predictor", "loaded"))] == [
        "predictor True",
        "loaded True",
    ] * len(sizes)


def test_a_program_with_a_bad_shape_is_refused_when_it_runs():
    def program(hidden, weight):
        return linear_topk(hidden, weight, 3, impl="fused")[0]

    spec = [
        paddle.static.InputSpec([None, None], "float32"),
        paddle.static.InputSpec([None, None], "float32"),
    ]
    compiled = paddle.jit.to_static(program, input_spec=spec, full_graph=True)
    assert compiled(paddle.ones([2, 4]), paddle.ones([9, 4])).shape == [2, 3]
    with pytest.raises(
        ValueError, match=r"linear_topk: weight: expected shape \[V, D\] with D = 4 .*\[9, 5\]"
    ):
        compiled(paddle.ones([2, 4]), paddle.ones([9, 5]))
    with pytest.raises(ValueError, match=r"linear_topk: k: expected 1 to 2, got 3"):
        compiled(paddle.ones([2, 4]), paddle.ones([2, 4]))


def test_onnx(tmp_path: Path) -> None:
    with implementation("reference"):
        report = to_onnx(
            head(),
            tmp_path / "export",
            {"hidden": rows(2, 3)},
            dynamic_axes={"hidden": {0: "batch", 1: "length"}},
            output_names=("prob", "index", "log_prob"),
        )
    assert report.verification.engine.startswith("onnxruntime ")


TARGET = """
import paddle_infra
from paddle_infra._core import extension
from tests.ops.linear_topk_cases import check, check_random_cases, make_case

for precision in ("highest", "medium"):
    for rows, classes in ((1, 5003), (130, 1000), (9, 77)):
        check(make_case(rows, 33, classes, 5, has_bias=True, softcap=3.0, precision=precision))
        check(make_case(rows, 33, classes, 77, layout="dv", precision=precision))
check_random_cases(range(500, 540))
print(extension.require().isa)
"""


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_every_instruction_set(isa):
    assert python_with_isa(isa, TARGET).split()[-1] == isa


THREADS = """
import hashlib
import paddle_infra
from tests.ops.linear_topk_cases import make_case, run

digest = hashlib.sha256()
for precision in ("highest", "medium"):
    for shape in ((1, 64, 20000, 5), (300, 48, 700, 9), (1500, 16, 2100, 3), (20, 33, 5003, 300)):
        for layout in ("vd", "dv"):
            for array in run(make_case(*shape, has_bias=True, precision=precision, layout=layout), "fused"):
                digest.update(array.tobytes())
print(digest.hexdigest())
"""


def test_bit_identical_for_any_number_of_threads():
    assert len({python(THREADS, OMP_NUM_THREADS=str(n)).split()[-1] for n in (1, 2, 3)}) == 1


CALLERS = """
import threading
import paddle_infra
from tests.ops.linear_topk_cases import make_case, run

def case(i):
    return make_case(5 + 30 * i, 16, 300 + 700 * i, 4 + i, seed=i, precision=("highest", "medium")[i % 2])
cases = [case(i) for i in range(8)]
def digest(case):
    return b"".join(x.tobytes() for x in run(case, "fused"))
expected = [digest(case) for case in cases]
found = [set() for _ in cases]
def work(i):
    for _ in range(40):
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
from paddle_infra.ops import linear_topk, set_matmul_precision

def status(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))

impl, rows, classes, k, precision = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
def step(n, v):
    tensors = paddle.ones([n, 16]), paddle.ones([v, 16])
    linear_topk(*tensors, min(k, v), impl=impl)
    return status("VmHWM")

with set_matmul_precision(precision):
    step(8, 64)
    before = status("VmHWM")
    print((step(rows, classes) - before) / (4 * rows * classes))
"""


def extra_memory(impl, rows, classes, k, precision="highest"):
    """Peak beyond that of a small call, inputs included, in units of the size of the logits."""
    return float(python(MEMORY, impl, *map(str, (rows, classes, k)), precision).split()[-1])


def test_peak_memory_is_far_below_the_size_of_the_logits():
    assert extra_memory("reference", 1024, 30_000, 5) > 1.0
    for precision in ("highest", "medium"):
        assert extra_memory("fused", 1024, 30_000, 5, precision) < 0.2
    # 24 bytes of results and 16 of candidates for each of 1,000 are 0.3 of the logits, not all in use.
    assert extra_memory("fused", 1024, 30_000, 1000) < 0.4
