"""Norms with every instruction set, any number of threads, many callers, and bounded memory."""

from __future__ import annotations

import pytest

from tests.ops.fresh_process import python, python_with_isa

RUN = """
import hashlib, sys
import numpy as np
import paddle_infra, paddle
from paddle_infra.ops import add_norm_with_sum, embedding_norm

def tensors(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [paddle.to_tensor(rng.standard_normal(s).astype("float32"), stop_gradient=False) for s in shapes]

def add(seed, rows, size, **options):
    # Results and all gradients.
    paddle.seed(seed)
    leaves = tensors(seed, (rows, size), (rows, size), (size,), (size,))
    out, total = add_norm_with_sum(*leaves, impl="fused", **options)
    # paddle.grad crashes in several threads: it keeps state in a global.
    paddle.autograd.backward([out, total], [total.detach(), out.detach()])
    return b"".join(x.numpy().tobytes() for x in (out, total, *(leaf.grad for leaf in leaves)))

def embed(seed, batch, length, size, words=50, **options):
    paddle.seed(seed)
    leaves = tensors(seed, (words, size), (length, size), (2, size), (size,), (size,))
    ids = paddle.to_tensor(np.random.default_rng(seed).integers(0, words, (batch, length)))
    out = embedding_norm(ids, *leaves, impl="fused", **options)
    out.backward(paddle.tanh(out).detach())
    return b"".join(x.numpy().tobytes() for x in (out, *(leaf.grad for leaf in leaves)))
"""

THREADS = f"""{RUN}
results = [
    add(0, 3000, 384),
    add(1, 1001, 77, dropout_p=0.3, norm="rms"),
    add(2, 3, 50000),
    add(3, 70000, 3),
    embed(4, 16, 130, 384, words=5000),
    embed(5, 7, 301, 133, dropout_p=0.2, norm="rms"),
    embed(6, 40, 200, 17, words=2),
]
print(*(hashlib.sha256(result).hexdigest() for result in results))
"""


def test_bit_identical_for_any_number_of_threads():
    results = {n: python(THREADS, OMP_NUM_THREADS=str(n)).split()[-7:] for n in (1, 2, 3, 5)}
    assert all(len(digest) == 64 for digest in results[1])
    assert len(set(results[1])) == 7
    for digests in results.values():
        assert digests == results[1]


CALLERS = f"""{RUN}
import threading

# No dropout: the seed comes from a generator that all threads share.
def work(i):
    if i % 2:
        return add(i, 300, 64 + i, norm=("layer", "rms")[i // 4])
    return embed(i, 4, 60, 64 + i)

expected = [work(i) for i in range(8)]
found = [None] * 8
def repeat(i):
    found[i] = {{work(i) for _ in range(200)}}

threads = [threading.Thread(target=repeat, args=(i,)) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(set(expected)), found == [{{result}} for result in expected])
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_eight_python_threads_get_exact_results(threads):
    assert python(CALLERS, OMP_NUM_THREADS=threads).split()[-2:] == ["8", "True"]


MEMORY = """
import sys
import paddle_infra, paddle
from paddle_infra.ops import add_norm

def status(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))

def step(rows, size=512):
    hidden, residual, weight, bias = leaves = [paddle.ones(s) for s in ([rows, size], [rows, size], [size], [size])]
    for leaf in leaves:
        leaf.stop_gradient = False
    before = status("VmHWM")
    out = add_norm(*leaves, dropout_p=0.1, impl=sys.argv[1])
    grad = paddle.ones_like(out)
    out.backward(grad)
    return (status("VmHWM") - before) / (out.size * 4)

step(16)
print(step(65536))
"""


def test_peak_memory():
    # In units of the result: itself, what comes from above and Paddle's copy of it, two gradients. No mask, no sum.
    assert float(python(MEMORY, "fused").split()[-1]) < 5.1
    assert float(python(MEMORY, "reference").split()[-1]) > 8


TARGET = """
import paddle_infra
from paddle_infra._core import extension
from tests.ops import add_norm_cases, embedding_norm_cases

for cases, shape in ((add_norm_cases, (301, 133)), (embedding_norm_cases, (5, 37, 133))):
    cases.check_random_cases(range(2000, 2150))
    cases.check(cases.make_case(*shape, **cases.EVERYTHING))
add_norm_cases.check(add_norm_cases.make_case(20, 768, mean=1e4, residual=False))
print(extension.require().isa)
"""


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set(isa):
    assert python_with_isa(isa, TARGET).split()[-1] == isa
