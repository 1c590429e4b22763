"""linear in dygraph: values, gradients, options, errors."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra.ops import explain_dispatch, linear, pack_weight, set_matmul_precision
from tests.ops.fresh_process import python


def test_a_second_backward_pass_gives_the_same():
    x, weight = paddle.randn([4, 3]), paddle.randn([3, 4])
    weight.stop_gradient = False
    y = linear(x, weight, activation="gelu", impl="fused").sum()
    (first,) = paddle.grad(y, [weight], retain_graph=True)
    (second,) = paddle.grad(y, [weight])
    np.testing.assert_array_equal(first.numpy(), second.numpy())


WRONG = {
    "activation": (
        lambda x, w, b: (x, w, b, {"activation": "tanh"}),
        InvalidInputError,
        "activation: expected one of 'none', .*got 'tanh'",
    ),
    "inner size": (
        lambda x, w, b: (x, w[:3], b, {}),
        InvalidInputError,
        r"weight: expected shape \[4, 6\] \(\[K, N\].*got \[3, 6\]",
    ),
    "rank": (
        lambda x, w, b: (x, w[0], b, {}),
        InvalidInputError,
        r"weight: expected two dimensions, none of them 0, got \[6\]",
    ),
    "bias": (lambda x, w, b: (x, w, b[:5], {}), InvalidInputError, r"bias: expected shape \[6\].*got \[5\]"),
    "odd": (
        lambda x, w, b: (x, w[:, :5], None, {"activation": "swiglu"}),
        InvalidInputError,
        "weight: expected an even number of columns for swiglu, got 5",
    ),
    "dtype": (
        lambda x, w, b: (x, w.astype("float64"), b, {}),
        InvalidDtypeError,
        "weight: expected dtype float32, got float64",
    ),
    "integers": (
        lambda x, w, b: (x.astype("int32"), w, b, {}),
        InvalidDtypeError,
        "x: expected dtype float32 or .*got int32",
    ),
    "no tensor": (
        lambda x, w, b: (x.numpy(), w, b, {}),
        InvalidDtypeError,
        "x: expected a paddle.Tensor, got ndarray",
    ),
    "bias is no tensor": (
        lambda x, w, b: (x, w, b.numpy(), {}),
        InvalidDtypeError,
        "bias: expected a paddle.Tensor, got ndarray",
    ),
    "none": (
        lambda x, w, b: (x, None, b, {}),
        InvalidDtypeError,
        "weight: expected a paddle.Tensor, got NoneType",
    ),
    "empty": (
        lambda x, w, b: (x[:, :0], w[:0], b, {}),
        InvalidInputError,
        r"x: expected shape \[..., K\] with K at least 1",
    ),
    "packed": (
        lambda x, w, b: (x, w, b, {"packed_weight": w}),
        InvalidDtypeError,
        "packed_weight: expected dtype bfloat16, got float32",
    ),
    "impl": (
        lambda x, w, b: (x, w, b, {"impl": "fast"}),
        InvalidInputError,
        "impl: expected one of .*got 'fast'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_errors(name, precision):
    make, error, message = WRONG[name]
    x, weight, bias, options = make(paddle.randn([2, 4]), paddle.randn([4, 6]), paddle.randn([6]))
    with set_matmul_precision(precision), pytest.raises(error, match=message):
        linear(x, weight, bias, **options)


def test_dispatch():
    x, weight = paddle.randn([2, 4]), paddle.randn([4, 6])
    assert str(explain_dispatch("linear", x, weight)) == "linear: fused runs"
    double = explain_dispatch("linear", x.astype("float64"), weight.astype("float64"))
    assert double.chosen == "reference"
    assert "fused cannot: the compiled kernel takes float32, x is float64" in str(double)
    with pytest.raises(UnsupportedError, match="x is float64"):
        linear(x.astype("float64"), weight.astype("float64"), impl="fused")
    with pytest.raises(InvalidDtypeError, match="weight: expected dtype float32, got float64"):
        pack_weight(weight.astype("float64"))


THREADS = """
import hashlib
import paddle_infra
from tests.ops.linear_cases import PRECISIONS, make_case, run

for precision in PRECISIONS:
    for shape in ((700, 130, 390), (20, 300, 900), (1, 64, 64)):
        for activation in ("none", "gelu", "swiglu"):
            found = run(make_case(*shape, activation), "fused", precision=precision)
            print(hashlib.sha256(b"".join(value.tobytes() for value in found.values())).hexdigest())
"""


def test_bit_identical_for_any_number_of_threads():
    results = {n: python(THREADS, OMP_NUM_THREADS=str(n)).split()[-18:] for n in (1, 2, 3, 5)}
    assert len(set(results[1])) == 18
    assert all(found == results[1] for found in results.values())


CALLERS = """
import threading
import numpy as np
import paddle_infra
from tests.ops.linear_cases import make_case, run

names = ("none", "gelu", "relu", "swiglu") * 2
cases = [make_case(5 + 40 * i, 30, 40, activation) for i, activation in enumerate(names)]
expected = [run(case, "fused") for case in cases]
wrong = []
def work(i):
    for _ in range(300):
        found = run(cases[i], "fused")
        if any((found[name] != expected[i][name]).any() for name in found):
            wrong.append(i)
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("wrong", wrong)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_eight_python_threads_get_exact_results(threads):
    assert python(CALLERS, OMP_NUM_THREADS=threads).splitlines()[-1] == "wrong []"
