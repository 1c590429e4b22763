"""What the kernel of linear_cross_entropy does behind its result: chunks, gradients made early, rounded products."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra._core.tolerances import largest_error
from paddle_infra.ops import linear_cross_entropy, set_matmul_precision
from tests.ops.fresh_process import INSTRUCTION_SETS, python, python_with_isa
from tests.ops.linear_cases import to_bfloat16
from tests.ops.linear_cross_entropy_cases import EVERYTHING, Case, check, gold, make_case, run

# By rows with two chunks, by columns with one chunk and with several.
CHUNKS = ((1100, 5, 2000), (70, 11, 2049), (200, 6, 30000))


@pytest.mark.parametrize("shape", CHUNKS, ids=str)
def test_chunks_of_rows(shape):
    check(make_case(*shape, ignored=0.1, label_smoothing=0.1), factor=2.0)
    check(make_case(*shape, **EVERYTHING), factor=2.0)


def rounded(case: Case) -> Case:
    """The case with the factors of its products rounded to bfloat16."""
    hidden, weight = (to_bfloat16(array).astype("float32") for array in (case.hidden, case.weight))
    return Case(hidden, weight, case.label, case.bias, case.class_weight, case.token_weight, case.options)


def check_medium(case: Case) -> None:
    """Logits are those of rounded factors; gradients of logits are rounded too, by up to 1 / 256 each."""
    truth = gold(rounded(case))
    with set_matmul_precision("medium"):
        found = run(case, "fused")
    for name, value in found.items():
        scale = np.abs(truth[name]).max()
        allowed = 1e-5 if name in ("loss", "bias") else 2.0**-8
        assert largest_error(value, truth[name]) <= allowed * scale, name


@pytest.mark.parametrize("shape", [(40, 33, 17), *CHUNKS], ids=str)
def test_medium(shape):
    check_medium(make_case(*shape, ignored=0.1, label_smoothing=0.1))
    check_medium(make_case(*shape, **EVERYTHING))


def test_medium_is_exact_with_few_classes():
    case = make_case(50, 40, 16)
    exact = run(case, "fused")
    with set_matmul_precision("medium"):
        for name, value in run(case, "fused").items():
            np.testing.assert_array_equal(value, exact[name])


def inputs(rows=40, features=6, classes=30):
    paddle.seed(2)
    hidden, weight, bias = (
        paddle.randn([rows, features]),
        paddle.randn([classes, features]),
        paddle.randn([classes]),
    )
    for tensor in (hidden, weight, bias):
        tensor.stop_gradient = False
    return (hidden, weight, bias), paddle.arange(rows) % classes


def loss_of(tensors, label, **options):
    hidden, weight, bias = tensors
    return linear_cross_entropy(hidden, weight, label, bias=bias, impl="fused", **options)


@pytest.mark.parametrize("classes", [7, 30, 2100])
@pytest.mark.parametrize("factor", [1.0, 3.0, 0.0])
def test_a_second_backward_pass_gives_the_same(classes, factor):
    """The first one gives the early gradients away; the second computes anew."""
    tensors, label = inputs(classes=classes)
    loss = factor * loss_of(tensors, label)
    first = [gradient.numpy() for gradient in paddle.grad(loss, list(tensors), retain_graph=True)]
    second = [gradient.numpy() for gradient in paddle.grad(loss, list(tensors))]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert (np.abs(first[0]).max() > 0) == (factor != 0.0)


def test_a_gradient_that_was_given_away_may_be_changed():
    tensors, label = inputs()
    loss = loss_of(tensors, label)
    first = paddle.grad(loss, list(tensors), retain_graph=True)
    expected = [gradient.numpy() for gradient in first]
    for gradient in first:
        gradient.fill_(7.0)
    for gradient, value in zip(paddle.grad(loss, list(tensors)), expected, strict=True):
        np.testing.assert_allclose(gradient.numpy(), value, rtol=1e-5, atol=1e-7)


def test_gradients_accumulate_over_calls():
    tensors, label = inputs()
    expected = [4 * gradient.numpy() for gradient in paddle.grad(loss_of(tensors, label), list(tensors))]
    for _ in range(4):
        loss_of(tensors, label).backward()
    for tensor, value in zip(tensors, expected, strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_only_some_gradients(wanted):
    tensors, label = inputs()
    everything = paddle.grad(loss_of(tensors, label), list(tensors))
    (one,) = paddle.grad(loss_of(tensors, label), [tensors[wanted]])
    np.testing.assert_array_equal(one.numpy(), everything[wanted].numpy())


def test_the_forward_pass_without_gradients_is_the_same():
    tensors, label = inputs()
    with paddle.no_grad():
        plain = loss_of(tensors, label)
    np.testing.assert_array_equal(plain.numpy(), loss_of(tensors, label).numpy())


MEMORY = """
import sys
import paddle_infra, paddle
from paddle_infra.ops import linear_cross_entropy

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

rows, features, classes = 512, 64, 65536
hidden, weight = paddle.ones([rows, features]), paddle.ones([classes, features])
label = paddle.zeros([rows], "int64")
linear_cross_entropy(hidden[:2], weight[:3000], label[:2])
is_training = sys.argv[1] == "training"
hidden.stop_gradient = weight.stop_gradient = not is_training
before = peak()
loss = linear_cross_entropy(hidden, weight, label, impl="fused")
if is_training:
    loss.backward()
print((peak() - before) / 2**20)
"""


def test_peak_memory():
    """The weight has 16 MiB, logits would have 128."""
    assert float(python(MEMORY, "training").split()[-1]) < 16 + 0.1 * 2 * 16 + 12
    assert float(python(MEMORY, "evaluation").split()[-1]) < 12


TARGET = """
import paddle_infra
from paddle_infra._core import extension
from tests.ops.test_linear_cross_entropy_design import CHUNKS, check_medium
from tests.ops.linear_cross_entropy_cases import EVERYTHING, check, make_case

for shape in CHUNKS[:2]:
    check(make_case(*shape, **EVERYTHING), factor=2.0)
    check_medium(make_case(*shape, **EVERYTHING))
print(extension.require().isa)
"""


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_every_instruction_set(isa):
    assert python_with_isa(isa, TARGET).split()[-1] == isa


THREADS = """
import hashlib
import paddle_infra
from paddle_infra.ops import set_matmul_precision
from tests.ops.test_linear_cross_entropy_design import CHUNKS
from tests.ops.linear_cross_entropy_cases import make_case, run

for precision in ("highest", "medium"):
    with set_matmul_precision(precision):
        for shape in ((300, 40, 9), *CHUNKS):
            found = run(make_case(*shape), "fused")
            print(hashlib.sha256(b"".join(value.tobytes() for value in found.values())).hexdigest())
"""


def test_bit_identical_for_any_number_of_threads():
    results = {n: python(THREADS, OMP_NUM_THREADS=str(n)).split()[-8:] for n in (1, 2, 3, 5)}
    assert len(set(results[1])) == 7  # few classes are multiplied exactly either way
    assert all(found == results[1] for found in results.values())
