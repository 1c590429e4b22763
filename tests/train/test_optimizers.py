"""Every optimizer of the factory against an independent float64 implementation in NumPy, over many steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.train import Adafactor, ClipByGlobalNorm, Lion, optimizer
from paddle_infra.train.optimizers.adafactor import factored_axes

STEPS = 60
SHAPES = {"kernel": (3, 5, 2, 4), "matrix": (7, 5), "row": (1, 6), "vector": (5,), "scalar": (1,)}
Array = np.ndarray
Update = Callable[[Array, Array, dict[str, Any], float, float], Array]


def sgd(x: Array, g: Array, state: dict[str, Any], rate: float, decay: float) -> Array:
    return x - rate * (g + decay * x)


def momentum(x: Array, g: Array, state: dict[str, Any], rate: float, decay: float) -> Array:
    mu = float(np.float32(0.9))  # Paddle keeps it in float32, whatever the parameters are
    state["v"] = mu * state.get("v", 0.0) + g + decay * x
    return x - rate * state["v"]


def adagrad(x: Array, g: Array, state: dict[str, Any], rate: float, decay: float) -> Array:
    g = g + decay * x
    state["s"] = state.get("s", 0.0) + g**2
    return x - rate * g / (np.sqrt(state["s"]) + 1e-6)


def adam(x: Array, g: Array, state: dict[str, Any], rate: float, decay: float) -> Array:
    return adamw(x, g + decay * x, state, rate, 0.0)


def adamw(x: Array, g: Array, state: dict[str, Any], rate: float, decay: float) -> Array:
    t = state["t"] = state.get("t", 0) + 1
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
    mean, square = state["m"] / (1 - 0.9**t), state["v"] / (1 - 0.999**t)
    decay = float(np.float32(decay))  # as Paddle keeps it
    return x - rate * decay * x - rate * mean / (np.sqrt(square) + 1e-8)


def lion(x: Array, g: Array, state: dict[str, Any], rate: float, decay: float) -> Array:
    m = state.get("m", np.zeros_like(x))
    state["m"] = 0.99 * m + 0.01 * g
    return x - rate * (np.sign(0.9 * m + 0.1 * g) + decay * x)


def adafactor(beta1: float | None, relative: bool, scaled: bool) -> Update:
    """Algorithms 4 and 5 of the paper, with its sums."""

    def update(x: Array, g: Array, state: dict[str, Any], rate: float, decay: float) -> Array:
        t = state["t"] = state.get("t", 0) + 1
        beta = 1 - t**-0.8
        square = g**2 + 1e-30
        if x.ndim >= 2:
            row, column = sorted(np.argsort(x.shape, kind="stable")[-2:])
            state["r"] = beta * state.get("r", 0.0) + (1 - beta) * square.sum(axis=column, keepdims=True)
            state["c"] = beta * state.get("c", 0.0) + (1 - beta) * square.sum(axis=row, keepdims=True)
            moment = state["r"] * state["c"] / state["r"].sum(axis=row, keepdims=True)
        else:
            moment = state["v"] = beta * state.get("v", 0.0) + (1 - beta) * square
        u = g / np.sqrt(moment)
        u = u / max(1.0, np.sqrt(np.mean(u**2)))
        if beta1 is not None:
            u = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * u
        if relative:  # the rate per parameter is 0.5 of the global one for the matrix: see `rates`
            factor = rate / state["rate"]
            rate = factor * min(state["rate"], 1 / np.sqrt(t))
        if scaled:
            rate = rate * max(1e-3, np.sqrt(np.mean(x**2)))
        return x - rate * (u + decay * x)

    return update


CASES: dict[str, tuple[str, dict[str, Any], Update]] = {
    "sgd": ("sgd", {}, sgd),
    "momentum": ("momentum", {"momentum": 0.9}, momentum),
    "adagrad": ("adagrad", {}, adagrad),
    "adam": ("adam", {}, adam),
    "adamw": ("adamw", {}, adamw),
    "lion": ("lion", {}, lion),
    "adafactor": ("adafactor", {}, adafactor(None, True, True)),
    "adafactor, momentum": ("adafactor", {"beta1": 0.9}, adafactor(0.9, True, True)),
    "adafactor, fixed rate": (
        "adafactor",
        {"relative_step": False, "scale_parameter": False},
        adafactor(None, False, False),
    ),
    "adafactor, all": ("adafactor", {"beta1": 0.5, "relative_step": False}, adafactor(0.5, False, True)),
}


class Parameters(paddle.nn.Layer):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        values = np.random.default_rng(seed)
        for name, shape in SHAPES.items():
            value = paddle.nn.initializer.Assign(values.normal(size=shape))
            setattr(self, name, self.create_parameter(shape, default_initializer=value))

    def follow(self, gradients: dict[str, Array]) -> None:
        """Backward pass of a loss that has exactly these gradients."""
        sum((p * paddle.to_tensor(gradients[name])).sum() for name, p in self.named_parameters()).backward()


@pytest.fixture(params=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(request.param)
    yield request.param
    paddle.set_default_dtype(before)


def gradients(dtype: str) -> Iterator[dict[str, Array]]:
    generator = np.random.default_rng(1)
    for _ in range(STEPS):
        yield {name: generator.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("case", CASES)
def test_equals_numpy(dtype: str, case: str) -> None:
    name, options, update = CASES[case]
    model = Parameters()
    ours = optimizer(
        model,
        0.2,
        name=name,
        weight_decay=0.05,
        no_decay=["vector"],
        schedule=lambda step: 1.0 / (1 + step // 7),
        **options,
    )
    model.matrix.optimize_attr["learning_rate"] = 0.5
    expected = {key: p.numpy().astype("float64") for key, p in model.named_parameters()}
    states: dict[str, dict[str, Any]] = {key: {} for key in SHAPES}
    for step, gradient in enumerate(gradients(dtype)):
        model.follow(gradient)
        ours.step()
        ours.clear_grad()
        ours._learning_rate.step()
        rate = 0.2 / (1 + step // 7)
        for key, value in expected.items():
            states[key]["rate"] = rate
            own, decay = rate * (0.5 if key == "matrix" else 1.0), 0.0 if key == "vector" else 0.05
            expected[key] = update(value, gradient[key].astype("float64"), states[key], own, decay)
    # float32: about 60 roundings of 6e-8 relative to entries of size 1; adam divides small numbers at the start.
    tolerance = {"float64": 1e-9, "float32": 2e-5}[dtype]
    for key, parameter in model.named_parameters():
        assert parameter.dtype == getattr(paddle, dtype)
        assert not parameter.stop_gradient
        np.testing.assert_allclose(parameter.numpy(), expected[key], atol=tolerance, rtol=0, err_msg=key)


def test_adafactor_keeps_rows_and_columns_only() -> None:
    model = paddle.nn.Linear(40, 30)
    ours = Adafactor(parameters=model.parameters())
    model(paddle.ones([2, 40])).sum().backward()
    ours.step()
    sizes = [t.size for kind in ours._accumulators.values() for t in kind.values()]
    assert sum(sizes) == 40 + 30 + 30 + 2  # rows, columns, the bias, two step counters
    assert factored_axes([64, 32, 3, 3]) == (0, 1)
    assert factored_axes([3, 64, 32]) == (1, 2)
    assert factored_axes([4, 4, 4]) == (1, 2)


def test_adafactor_clips_the_update() -> None:
    """The second gradient is 1000 times the first: its update has the root mean square of the threshold."""
    model = paddle.nn.Linear(4, 4, bias_attr=False)
    ours = Adafactor(
        1.0, relative_step=False, scale_parameter=False, clip_threshold=0.5, parameters=model.parameters()
    )
    for scale in (1.0, 1000.0):
        before = model.weight.numpy().copy()
        (model.weight * scale).sum().backward()
        ours.step()
        ours.clear_grad()
        np.testing.assert_allclose(before - model.weight.numpy(), 0.5, rtol=1e-5)


@pytest.mark.parametrize("kind", [Lion, Adafactor])
def test_paddle_parameter_groups(kind: Any) -> None:
    """A group has its own rate and decoupled decay; a zero gradient leaves the decay alone to act."""
    first, second = paddle.nn.Linear(3, 3, bias_attr=False), paddle.nn.Linear(3, 3, bias_attr=False)
    groups = [
        {"params": first.parameters(), "weight_decay": 0.5, "learning_rate": 0.1},
        {"params": second.parameters()},
    ]
    options = {"relative_step": False, "scale_parameter": False} if kind is Adafactor else {}
    ours = kind(0.2, parameters=groups, weight_decay=0.25, **options)
    before = [layer.weight.numpy().copy() for layer in (first, second)]
    ((first.weight.sum() + second.weight.sum()) * 0.0).backward()
    ours.step()
    np.testing.assert_allclose(first.weight.numpy(), before[0] * (1 - 0.2 * 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_allclose(second.weight.numpy(), before[1] * (1 - 0.2 * 0.25), rtol=1e-6)


@pytest.mark.parametrize("name", ["lion", "adafactor"])
def test_own_optimizers_measure_and_clip_the_norm(name: str) -> None:
    model = paddle.nn.Linear(2, 2, bias_attr=False)
    clip = ClipByGlobalNorm(1.0)
    ours = optimizer(model, 0.1, name=name, clip=clip)
    (model.weight * 3.0).sum().backward()
    ours.step()
    assert clip.last_norm == pytest.approx(6.0)
    if name == "lion":  # (1 - beta2) of the gradient, which was 3 and is scaled to 3 / 6
        momentum = next(iter(ours._accumulators["momentum"].values()))
        np.testing.assert_allclose(momentum.numpy(), 0.01 * 0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Lion, {"beta1": 1.0}, "beta1: expected a number from 0 up to but not 1, got 1.0"),
        (Lion, {"beta2": -0.1}, "beta2: expected a number from 0 up to but not 1, got -0.1"),
        (Lion, {"weight_decay": -1.0}, "weight_decay: expected 0 or more, got -1.0"),
        (Adafactor, {"beta1": 1.5}, "beta1: expected a number from 0 up to but not 1, got 1.5"),
        (Adafactor, {"decay_exponent": 0.0}, "decay_exponent: expected a positive number, got 0.0"),
        (Adafactor, {"clip_threshold": -1.0}, "clip_threshold: expected a positive number, got -1.0"),
        (Adafactor, {"epsilon2": -1.0}, "epsilon2: expected 0 or more, got -1.0"),
    ],
)
def test_bad_arguments(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        kind(parameters=paddle.nn.Linear(2, 2).parameters(), **options)


def test_low_precision_parameters_are_refused() -> None:
    half = paddle.create_parameter([2], "float16", default_initializer=paddle.nn.initializer.Constant(1.0))
    ours = Lion(parameters=[half])
    (half.astype("float32") * 2.0).sum().backward()
    with pytest.raises(
        UnsupportedError, match=r"Lion: expected parameters of float32 or float64, got .*float16"
    ):
        ours.step()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["dp", "sharding"])
def test_two_processes_of_fleet_equal_one(tmp_path: Path, mode: str) -> None:
    """Data parallel, and the optimizer's state sharded, with gloo on the CPU."""
    root = Path(__file__).parents[2]
    script = root / "tests" / "train" / "fleet_optimizers.py"
    launch = [
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        "2",
        "--backend",
        "gloo",
        "--log_dir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launch, str(script), mode],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    logs = "".join(path.read_text() for path in tmp_path.glob("workerlog.*"))
    assert done.returncode == 0, logs
    results = re.findall(r"^RESULT (\d) (\w+) (\S+)$", logs, flags=re.MULTILINE)
    assert {(rank, name) for rank, name, _ in results} == {
        (r, n) for r in "01" for n in ("lion", "adafactor")
    }
    assert all(
        float(difference) <= 1e-6 for _, _, difference in results
    )  # a few roundings of weights below 1
