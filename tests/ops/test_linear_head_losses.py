"""linear_focal and linear_binary_cross_entropy against float64, in every mode of the kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from paddle_infra._core.tolerances import error_budget, largest_error
from paddle_infra.ops import linear_binary_cross_entropy, linear_cross_entropy, linear_focal
from tests.ops import head_gold
from tests.ops.fresh_process import INSTRUCTION_SETS, python, python_with_isa

# Paddle's own, from capturing a program with a gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")
IMPLS = pytest.mark.parametrize("impl", ["fused", "reference"])
KINDS = pytest.mark.parametrize("kind", ["focal", "binary"])
# One for each mode of the kernel, the second with two chunks of rows and the third with several.
SHAPES = ((70, 9, 16), (60, 7, 17), (1100, 5, 2000), (150, 6, 2049))


def make(
    kind: str,
    rows: int,
    features: int,
    classes: int,
    seed: int = 0,
    everything: bool = False,
    scale: float = 1.0,
):
    """Arrays by name, and options."""
    rng = np.random.default_rng([seed, rows, features, classes])
    arrays = {
        "hidden": rng.standard_normal((rows, features)),
        "weight": scale / np.sqrt(features) * rng.standard_normal((classes, features)),
        "bias": rng.standard_normal(classes),
    }
    options: dict[str, Any] = {}
    if kind == "focal":
        arrays["label"] = rng.integers(0, classes, rows)
        options["gamma"] = float(rng.choice([0.5, 1.0, 2.0, 3.5]))
    else:
        arrays["target"] = (rng.random((rows, classes)) < 0.3).astype("float32")
    if everything:
        arrays["token_weight"] = rng.uniform(0.2, 2.0, rows)
        arrays["pos_weight" if kind == "binary" else "class_weight"] = rng.uniform(0.2, 2.0, classes)
        options |= {"softcap": 5.0, "reduction": str(rng.choice(["none", "sum"])), "weight_layout": "dv"}
        if kind == "focal":
            arrays["label"][rng.random(rows) < 0.2] = -1
            options["ignore_index"] = -1
    for name, array in arrays.items():
        arrays[name] = array if name == "label" else array.astype("float32")
    return arrays, options


def run(
    kind: str, arrays: dict[str, np.ndarray], options: dict[str, Any], impl: str
) -> dict[str, np.ndarray]:
    """Loss and gradients of its sum."""
    tensors = {}
    for name, array in arrays.items():
        if name == "weight" and options.get("weight_layout") == "dv":
            array = np.ascontiguousarray(array.T)
        tensors[name] = paddle.to_tensor(array, stop_gradient=name not in ("hidden", "weight", "bias"))
    operator = linear_focal if kind == "focal" else linear_binary_cross_entropy
    loss = operator(**tensors, **options, impl=impl)
    loss.sum().backward()
    found = {
        "loss": loss.numpy(),
        **{name: tensors[name].grad.numpy() for name in ("hidden", "weight", "bias")},
    }
    if options.get("weight_layout") == "dv":
        found["weight"] = found["weight"].T
    return found


def check(kind: str, arrays: dict[str, np.ndarray], options: dict[str, Any]) -> None:
    truth = getattr(head_gold, kind)(arrays, **options)
    plain, fused = (run(kind, arrays, options, impl) for impl in ("reference", "fused"))
    for name, value in fused.items():
        # Of thousands of numbers one may meet a lucky plain one: error 1.8e-6 of values of about 1 against 0.4e-6.
        budget = error_budget(plain[name], truth[name], "float32", 3.0)
        error = largest_error(value, truth[name])
        assert error <= budget, f"{kind} {name}: error {error:.3g}, allowed {budget:.3g}, {options}"


@KINDS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(kind, shape):
    check(kind, *make(kind, *shape))
    check(kind, *make(kind, *shape, everything=True))


@KINDS
def test_random_cases(kind):
    rng = np.random.default_rng(3)
    for seed in range(500):
        rows, features, classes = (int(n) for n in rng.integers(1, (40, 30, 60)))
        check(
            kind,
            *make(
                kind,
                rows,
                features,
                classes,
                seed,
                everything=bool(seed % 2),
                scale=float(rng.choice([0.1, 1, 6])),
            ),
        )


@KINDS
def test_large_logits_stay_finite_and_exact(kind):
    arrays, options = make(kind, 20, 6, 30, scale=3e3)
    truth = getattr(head_gold, kind)(arrays, **options)
    found = run(kind, arrays, options, "fused")
    for name, value in found.items():
        np.testing.assert_allclose(value, truth[name], rtol=1e-4, atol=1e-4 * np.abs(truth[name]).max())


@IMPLS
def test_gamma_0_is_cross_entropy(impl):
    arrays, _ = make("focal", 50, 8, 40)
    tensors = {name: paddle.to_tensor(array) for name, array in arrays.items()}
    focal = linear_focal(**tensors, gamma=0.0, impl=impl)
    np.testing.assert_array_equal(focal.numpy(), linear_cross_entropy(**tensors, impl=impl).numpy())


@IMPLS
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_ignored_or_weightless_is_zero(impl, reduction):
    hidden, weight = paddle.randn([4, 3]), paddle.randn([5, 3])
    weight.stop_gradient = False
    losses = [
        linear_focal(hidden, weight, paddle.full([4], -100, "int64"), reduction=reduction, impl=impl),
        linear_binary_cross_entropy(
            hidden,
            weight,
            paddle.ones([4, 5]),
            token_weight=paddle.zeros([4]),
            reduction=reduction,
            impl=impl,
        ),
    ]
    for loss in losses:
        loss.sum().backward()
        assert float(loss.sum()) == 0.0
    assert not weight.grad.numpy().any()


@IMPLS
@KINDS
def test_no_rows(kind, impl):
    hidden, weight = paddle.zeros([0, 3]), paddle.randn([5, 3])
    hidden.stop_gradient = weight.stop_gradient = False  # Paddle's own matmul refuses an empty constant
    operator = linear_focal if kind == "focal" else linear_binary_cross_entropy
    label = paddle.zeros([0], "int64") if kind == "focal" else paddle.zeros([0, 5])
    loss = operator(hidden, weight, label, impl=impl)
    loss.backward()
    assert float(loss) == 0.0
    assert not weight.grad.numpy().any()


@IMPLS
def test_bool_targets(impl):
    hidden, weight = paddle.randn([2, 4, 3]), paddle.randn([5, 3])
    target = paddle.rand([2, 4, 5]) < 0.5
    loss = linear_binary_cross_entropy(hidden, weight, target, reduction="none", impl=impl)
    assert loss.shape == [2, 4, 5]
    same = linear_binary_cross_entropy(hidden, weight, target.astype("float32"), reduction="none", impl=impl)
    np.testing.assert_array_equal(loss.numpy(), same.numpy())


@KINDS
def test_gradient_scales_with_what_comes_from_above(kind):
    arrays, options = make(kind, 30, 8, 20)
    plain = run(kind, arrays, options, "fused")
    tensors = {
        n: paddle.to_tensor(a, stop_gradient=n not in ("hidden", "weight", "bias")) for n, a in arrays.items()
    }
    operator = linear_focal if kind == "focal" else linear_binary_cross_entropy
    loss = 3.0 * operator(**tensors, **options, impl="fused")
    loss.backward(retain_graph=True)
    first = {name: tensors[name].grad.numpy() for name in ("hidden", "weight", "bias")}
    loss.backward()  # computes anew, and adds to what the first one gave away
    for name, value in first.items():
        np.testing.assert_allclose(value, 3.0 * plain[name], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(tensors[name].grad.numpy(), 6.0 * plain[name], rtol=1e-5, atol=1e-6)


def test_errors():
    hidden, weight = paddle.randn([2, 3]), paddle.randn([4, 3])
    label, target = paddle.to_tensor([0, 3]), paddle.zeros([2, 4])
    with pytest.raises(InvalidInputError, match=r"gamma: expected a finite number in \[0, inf\], got -1"):
        linear_focal(hidden, weight, label, gamma=-1.0)
    with pytest.raises(InvalidInputError, match=r"label\[1\] is 4; expected ignore_index"):
        linear_focal(hidden, weight, label + 1)
    with pytest.raises(InvalidInputError, match=r"target: expected shape \[2, 4\] .*got \[2, 3\]"):
        linear_binary_cross_entropy(hidden, weight, target[:, :3])
    target[0, 2] = 1.5
    with pytest.raises(InvalidInputError, match=r"target\[0, 2\] is 1.5; expected a number in \[0, 1\]"):
        linear_binary_cross_entropy(hidden, weight, target)
    with pytest.raises(InvalidInputError, match=r"pos_weight: expected shape \[4\] \(\[V\]\), got \[3\]"):
        linear_binary_cross_entropy(hidden, weight, paddle.zeros([2, 4]), pos_weight=paddle.ones([3]))
    with pytest.raises(InvalidDtypeError, match=r"target: expected dtype float32 or .*bool, got int64"):
        linear_binary_cross_entropy(hidden, weight, paddle.zeros([2, 4], "int64"))


TARGET = """
import paddle_infra
from paddle_infra._core import extension
from tests.ops.test_linear_head_losses import SHAPES, check, make

for kind in ("focal", "binary"):
    for shape in SHAPES:
        check(kind, *make(kind, *shape, everything=True))
print(extension.require().isa)
"""


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_every_instruction_set(isa):
    assert python_with_isa(isa, TARGET).split()[-1] == isa


THREADS = """
import hashlib
import paddle_infra
from tests.ops.test_linear_head_losses import SHAPES, make, run

for kind in ("focal", "binary"):
    for shape in SHAPES:
        found = run(kind, *make(kind, *shape), "fused")
        print(hashlib.sha256(b"".join(value.tobytes() for value in found.values())).hexdigest())
"""


def test_bit_identical_for_any_number_of_threads():
    results = {n: python(THREADS, OMP_NUM_THREADS=str(n)).split()[-8:] for n in (1, 2, 3)}
    assert len(set(results[1])) == 8
    assert all(found == results[1] for found in results.values())


class Head(paddle.nn.Layer):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear = paddle.nn.Linear(6, 20)
        self.operator = linear_focal if kind == "focal" else linear_binary_cross_entropy

    def forward(self, x, y):
        options = {"bias": self.linear.bias, "weight_layout": "dv", "impl": "fused"}
        return self.operator(x, self.linear.weight, y, **options)


@KINDS
def test_to_static_training_equals_dygraph(kind):
    results = []
    for is_static in (False, True):
        paddle.seed(3)
        layer = Head(kind)
        forward = paddle.jit.to_static(layer, full_graph=True) if is_static else layer
        optimizer = paddle.optimizer.Adam(0.05, parameters=layer.parameters())
        losses = []
        for step in range(5):
            rng = np.random.default_rng(step % 2)
            x = paddle.to_tensor(rng.standard_normal((9, 6)).astype("float32"))
            y = rng.integers(0, 20, 9) if kind == "focal" else (rng.random((9, 20)) < 0.5).astype("float32")
            value = forward(x, paddle.to_tensor(y))
            value.backward()
            optimizer.step()
            optimizer.clear_grad()
            losses.append(float(value))
        results.append(losses)
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[0][4] < results[0][0]
