"""The losses of a linear layer with any number of threads, and the memory that they take."""

from __future__ import annotations

import pytest

from tests.ops.fresh_process import python

THREADS = """
import hashlib
import paddle_infra
from paddle_infra.ops import set_matmul_precision
from tests.ops import linear_binary_cross_entropy_cases, linear_cross_entropy_cases, linear_focal_cases

digest = hashlib.sha256()
for cases in (linear_cross_entropy_cases, linear_focal_cases, linear_binary_cross_entropy_cases):
    for precision in ("highest", "medium"):
        for options in ({}, cases.EVERYTHING):
            for shape in ((2100, 50, 7), (131, 100, 77), (700, 130, 500), (1200, 20, 2048), (600, 40, 5003)):
                with set_matmul_precision(precision):
                    for value in cases.run(cases.make_case(*shape, **options), "fused").values():
                        digest.update(value.tobytes())
print(digest.hexdigest())
"""


def test_bit_identical_for_any_number_of_threads():
    digests = {python(THREADS, OMP_NUM_THREADS=str(n)).split()[-1] for n in (1, 2, 3, 5)}
    assert len(digests) == 1


MEMORY = """
import ctypes
import sys
import paddle_infra, paddle

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def prepare(rows, features, classes):
    hidden, weight = paddle.ones([rows, features]), paddle.ones([classes, features])
    hidden.stop_gradient = "hidden" in frozen
    weight.stop_gradient = "weight" in frozen
    return hidden, weight, paddle.zeros([rows], "int64")

def step(inputs):
    loss = paddle_infra.ops.linear_cross_entropy(*inputs, impl=impl)
    if paddle.is_grad_enabled():
        loss.backward()

impl, precision, *frozen = sys.argv[1].split(",")
shape = [int(n) for n in sys.argv[2].split(",")]
paddle_infra.ops.set_matmul_precision(precision)
paddle.set_grad_enabled("no_grad" not in frozen)
step(prepare(8, shape[1], 40))
inputs = prepare(*shape)
ctypes.CDLL(None).malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")
before = peak()
step(inputs)
print(peak() - before)
"""


def peak_bytes(settings: str, rows: int, features: int, classes: int, **environment: str) -> int:
    """Return how much a step takes above its inputs: gradients, and what is in use at the same time."""
    return int(python(MEMORY, settings, f"{rows},{features},{classes}", **environment).split()[-1])


def tensor_bytes(rows: int, features: int, classes: int) -> int:
    """Return the size of hidden and weight."""
    return 4 * features * (rows + classes)


def test_peak_memory_is_far_below_the_size_of_the_logits():
    shape = 4096, 16, 8192
    logits = 4 * 4096 * 8192
    # The plain implementation shows that the measure sees them.
    assert peak_bytes("fused,highest", *shape) < 0.1 * logits
    assert peak_bytes("reference,highest", *shape) > 1.0 * logits


@pytest.mark.parametrize(("precision", "scratch_mb"), [("highest", 10), ("medium", 11)])
def test_peak_memory_with_many_classes(precision, scratch_mb):
    shape = 512, 64, 65536
    inputs = tensor_bytes(*shape)
    # Beside the inputs: gradients as large as they are, a tenth of both, and the logits of 32 rows, to which "medium"
    # adds rounded blocks of the weight.
    peak = peak_bytes(f"fused,{precision}", *shape)
    assert inputs < peak <= 1.1 * 2 * inputs - inputs + (scratch_mb << 20)


def test_gradients_that_nobody_wants_take_no_memory():
    shape = 512, 256, 32768
    scratch = 20 << 20
    assert peak_bytes("fused,highest,weight", *shape) < scratch
    assert peak_bytes("fused,highest,hidden", *shape) > tensor_bytes(0, 256, 32768)
    assert peak_bytes("fused,highest,no_grad", *shape) < scratch


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_peak_memory_of_a_large_head(precision):
    shape = 8192, 768, 131072
    inputs = tensor_bytes(*shape)
    assert peak_bytes(f"fused,{precision}", *shape, OMP_NUM_THREADS="2") <= 1.1 * 2 * inputs - inputs
