"""Attention with every instruction set, any number of threads, many callers, and bounded memory."""

from __future__ import annotations

import os

import pytest

from tests.ops.fresh_process import INSTRUCTION_SETS, python, python_with_isa

RUN = """
import hashlib, sys
import numpy as np
import paddle_infra, paddle
from paddle_infra.ops import attention_decode, attention_varlen, attention_with_lse, set_matmul_precision

def tensor(array):
    return paddle.to_tensor(array, stop_gradient=array.dtype != np.float32)

def inputs(seed, batch, queries, keys, heads, kv_heads, dim):
    rng = np.random.default_rng(seed)
    shapes = (batch, queries, heads, dim), (batch, keys, kv_heads, dim), (batch, keys, kv_heads, dim)
    return [tensor(rng.standard_normal(shape).astype("float32")) for shape in shapes]

def digest(*shape, seed=0, **options):
    # Of the results and all gradients.
    paddle.seed(seed)
    arguments = inputs(seed, *shape)
    out, lse = attention_with_lse(*arguments, impl="fused", **options)
    paddle.autograd.backward([out, lse], [out.detach(), lse.detach()])
    leaves = arguments + [x for x in options.values() if isinstance(x, paddle.Tensor) and not x.stop_gradient]
    result = hashlib.sha256(out.numpy().tobytes() + lse.numpy().tobytes())
    for leaf in leaves:
        result.update(leaf.grad.numpy().tobytes())
        leaf.clear_gradient(False)
    return result.hexdigest()
"""

THREADS = f"""{RUN}
rng = np.random.default_rng(0)
for precision in ("highest", "medium"):
    with set_matmul_precision(precision):
        print(digest(1, 700, 700, 1, 1, 40, causal=True))
        print(digest(3, 65, 130, 6, 2, 64, kv_lengths=tensor(np.array([130, 1, 70])), softcap=3.0))
        bias = tensor(rng.standard_normal((1, 4, 150, 150)).astype("float32"))
        print(digest(2, 150, 150, 4, 4, 24, bias=bias, dropout_p=0.2, window=(60, 20)))
        starts = tensor(np.array([0, 5, 300, 301, 420]))
        packed = [x.flatten(0, 1).detach() for x in inputs(1, 4, 105, 105, 4, 2, 16)]
        print(hashlib.sha256(attention_varlen(*packed, starts, starts, causal=True).numpy().tobytes()).hexdigest())
cache = [x.detach() for x in inputs(2, 2, 1, 3000, 8, 2, 64)]
lengths = tensor(np.array([2900, 17]))
print(hashlib.sha256(attention_decode(*cache, kv_lengths=lengths).numpy().tobytes()).hexdigest())
"""


def test_bit_identical_for_any_number_of_threads():
    results = {n: python(THREADS, OMP_NUM_THREADS=str(n)).split()[-9:] for n in (1, 2, 3, 5)}
    assert all(len(digest) == 64 for digest in results[1])
    assert len(set(results[1])) == 9
    for digests in results.values():
        assert digests == results[1]


CALLERS = f"""{RUN}
import threading
cases = [
    dict(shape=(2, 9, 11, 4, 2, 8), causal=True),
    dict(shape=(1, 70, 70, 2, 2, 16)),
    dict(shape=(2, 5, 5, 2, 1, 8), bias=tensor(np.ones((1, 2, 5, 5), "float32"))),
    dict(shape=(1, 1, 33, 2, 2, 24), softcap=2.0),
]
def work(i, found):
    case = dict(cases[i % 4])
    shape = case.pop("shape")
    if "bias" in case:
        case["bias"] = tensor(case["bias"].numpy() * i)
    arguments = inputs(i, *shape)
    leaves = arguments + [x for x in case.values() if isinstance(x, paddle.Tensor)]
    results = set()
    for _ in range(1000 if found is not None else 1):
        out, lse = attention_with_lse(*arguments, impl="fused", **case)
        # paddle.grad crashes in several threads: it keeps state in a global.
        paddle.autograd.backward([out, lse], [out.detach(), lse.detach()])
        results.add(b"".join(x.numpy().tobytes() for x in (out, lse, *(leaf.grad for leaf in leaves))))
        for leaf in leaves:
            leaf.clear_gradient(False)
    if found is None:
        return results
    found[i] = results

expected = [work(i, None) for i in range(8)]
found = [None] * 8
threads = [threading.Thread(target=work, args=(i, found)) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(set(map(frozenset, expected))), found == expected)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_eight_python_threads_get_exact_results(threads):
    assert python(CALLERS, OMP_NUM_THREADS=threads).split()[-2:] == ["8", "True"]


THREAD_COUNT = """
import ctypes, sys, threading
import paddle_infra, paddle
from paddle_infra._core import extension

count = ctypes.CDLL(str(extension.require().path)).paddle_infra_thread_count
def elsewhere():
    found = []
    thread = threading.Thread(target=lambda: found.append(count()))
    thread.start()
    thread.join()
    return found[0]
print(count(), elsewhere())
paddle.base.core.set_num_threads(int(sys.argv[1]))
print(count(), elsewhere())
"""


def test_the_number_of_threads_follows_paddle_in_every_thread():
    """Paddle runs programs in threads of its own, where OpenMP still has the number of the start."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one core: there is no second thread to ask for")
    assert python(THREAD_COUNT, "2", OMP_NUM_THREADS="1").split()[-4:] == ["1", "1", "2", "2"]


MEMORY = """
import sys
import paddle_infra, paddle
from paddle_infra.ops import attention

def status(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))

def step(length, backward, heads=2, dim=16):
    tensors = [paddle.ones([1, length, heads, dim]) for _ in range(3)]
    for tensor in tensors:
        tensor.stop_gradient = not backward
    before = status("VmHWM")
    out = attention(*tensors, causal=True, impl=sys.argv[1])
    if backward:
        out.sum().backward()
    return (status("VmHWM") - before) / (out.size * 4)

step(16, True)
print(step(int(sys.argv[2]), sys.argv[3] == "backward"))
"""


def extra_memory(impl, length, mode):
    """Peak beyond the inputs, in units of the size of the output."""
    return float(python(MEMORY, impl, str(length), mode).split()[-1])


def test_peak_memory_grows_with_the_length_not_its_square():
    # The output of 2 heads of 16 is 128 bytes per token; scores of 4,096 tokens would be 256 times as large as it.
    for mode in ("forward", "backward"):
        assert extra_memory("reference", 4096, mode) > 256
    for length in (8192, 32768):
        # Out, lse and row sums are 1.2 units; scratch memory of one thread is up to 1 MB, a unit at 8,192, and some
        # pages of code are met for the first time.
        assert extra_memory("fused", length, "forward") < 1.3 + 1.1 * 8192 / length
        # And three gradients, that of out, delta.
        assert extra_memory("fused", length, "backward") < 5.6 + 1.1 * 8192 / length


LEAK = """
import gc
import numpy as np
import paddle_infra, paddle
from paddle_infra.ops import attention_with_lse

def resident():
    gc.collect()
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmRSS"))

rng = np.random.default_rng(0)
def calls(count):
    for i in range(count):
        queries, keys = (int(n) for n in rng.integers(1, 60, 2))
        tensors = [paddle.ones([2, n, 2, 16]) for n in (queries, keys, keys)]
        tensors.append(paddle.ones([1, 2, queries, keys]))
        for tensor in tensors:
            tensor.stop_gradient = False
        out, lse = attention_with_lse(*tensors[:3], bias=tensors[3], dropout_p=0.1, impl="fused")
        (out.sum() + lse.sum()).backward()

calls(1000)
before = resident()
calls(4000)
print(resident() - before)
"""


def test_memory_stays_the_same_over_many_calls():
    # Less than 200 bytes per call: fragments, not a tensor of each call.
    assert int(python(LEAK).split()[-1]) < 800_000


TARGET = """
import paddle_infra
from paddle_infra._core import extension
from tests.ops.attention_cases import PRECISIONS, cases_of_targets, check

for case in cases_of_targets():
    check(case, PRECISIONS)
print(extension.require().isa)
"""


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_every_instruction_set(isa):
    assert python_with_isa(isa, TARGET).split()[-1] == isa
