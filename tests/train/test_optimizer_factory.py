"""The factory of optimizers: groups, decay, rates, freezing, clipping."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import (
    ClipByGlobalNorm,
    ClipByValue,
    ParameterGroup,
    adamw,
    freeze,
    optimizer,
    schedule_factor,
    unfreeze,
)
from tests.train.test_optim import Model

NAMES = ["adafactor", "adagrad", "adam", "adamw", "lion", "momentum", "sgd"]
DECOUPLED = {"adafactor": {"relative_step": False, "scale_parameter": False}, "adamw": {}, "lion": {}}


def train(model: Any, ours: Any, steps: int = 3) -> None:
    for _ in range(steps):
        model(paddle.ones([2, 4])).square().sum().backward()
        ours.step()
        ours.clear_grad()
        if not isinstance(ours._learning_rate, float):
            ours._learning_rate.step()


def weights(model: Any) -> dict[str, np.ndarray]:
    return {name: p.numpy().copy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_same_bits_as_adamw(decay: float) -> None:
    left, right = Model(), Model()
    right.set_state_dict(left.state_dict())
    factor = schedule_factor("cosine", 1, 4)
    train(
        left,
        adamw(
            left, 0.1, weight_decay=decay, layer_decay=0.8, warmup_steps=1, total_steps=4, schedule="cosine"
        ),
    )
    options: dict[str, Any] = {"weight_decay": decay, "layer_decay": 0.8, "schedule": factor}
    train(right, optimizer(right, 0.1, clip=ClipByGlobalNorm(1.0), **options))
    for name, value in weights(left).items():
        np.testing.assert_array_equal(value, weights(right)[name], err_msg=name)


def one_step_of_decay(name: str, **options: Any) -> dict[str, np.ndarray]:
    """What is left of each weight after a step whose gradient is zero."""
    model = Model()
    for parameter in model.parameters():  # norms start at 1 and biases at 0, of which nothing can be left
        parameter.set_value(paddle.full_like(parameter, 2.0))
    ours = optimizer(model, 0.1, name=name, **options)
    (model(paddle.ones([1, 4])).sum() * 0.0).backward()
    ours.step()
    return {key: value / 2.0 for key, value in weights(model).items()}


GROUPS = [
    ParameterGroup(["head.*"], learning_rate=0.4),
    ParameterGroup(["layers.0.dense.bias", "layers.1.after.*"], weight_decay=0.25),
    ParameterGroup(["layers.1.dense.weight"], learning_rate=0.05, weight_decay=0.0),
]


def expected_share(name: str) -> float:
    if name in ("layers.0.dense.bias", "layers.1.after.weight", "layers.1.after.bias"):
        return 1 - 0.1 * 0.25
    if name == "layers.1.dense.weight" or "bias" in name or "after" in name:
        return 1.0
    return 1 - (0.4 if name == "head.weight" else 0.1) * 0.5


@pytest.mark.parametrize("name", [*DECOUPLED, "sgd"])
def test_groups_have_their_own_rate_and_decay(name: str) -> None:
    options = DECOUPLED.get(name, {})
    for key, share in one_step_of_decay(name, weight_decay=0.5, groups=GROUPS, **options).items():
        np.testing.assert_allclose(share, expected_share(key), rtol=1e-6, err_msg=key)


def test_rates_of_groups_follow_layer_decay_and_schedule() -> None:
    model = Model()
    ours = optimizer(
        model,
        0.1,
        name="sgd",
        layer_decay=0.5,
        groups=[ParameterGroup(["layers.1.*"], learning_rate=0.3)],
        schedule=lambda step: 1.0 / (step + 1),
    )
    ours._learning_rate.step()
    before = weights(model)
    sum(p.sum() for p in model.parameters()).backward()
    ours.step()
    rates = {"embedding": 0.1 / 8, "layers.0": 0.1 / 4, "layers.1": 0.3 / 2, "head": 0.1}
    for key, value in weights(model).items():
        rate = next(rate for prefix, rate in rates.items() if key.startswith(prefix)) / 2
        np.testing.assert_allclose(before[key] - value, rate, rtol=1e-4, err_msg=key)


def test_coupled_decay_leaves_nothing_on_the_model() -> None:
    """An optimizer that is made later over the same model has no decay."""
    model = Model()
    optimizer(
        model, 0.1, name="sgd", weight_decay=0.5, groups=[ParameterGroup(["head.*"], learning_rate=0.4)]
    )
    later = optimizer(model, 0.1, name="sgd")
    before = weights(model)
    (model(paddle.ones([1, 4])).sum() * 0.0).backward()
    later.step()
    for key, value in weights(model).items():
        np.testing.assert_array_equal(value, before[key])
    assert all(p.optimize_attr["learning_rate"] == 1.0 for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_learns_with_everything_on(name: str) -> None:
    paddle.seed(0)
    model = Model()
    frozen = freeze(model, ["embedding.*"])
    ours = optimizer(
        model,
        0.02,
        name=name,
        weight_decay=0.01,
        layer_decay=0.9,
        groups=[ParameterGroup(["head.*"], learning_rate=0.04)],
        clip=ClipByValue(0.5),
        schedule=schedule_factor("linear", 2, 30),
    )
    before = weights(model)
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(16, 4)).astype("float32"))
    target = paddle.tanh(x[:, :2] - x[:, 2:])
    losses = []
    for _ in range(30):
        loss = (model(x) - target).square().mean()
        losses.append(float(loss))
        loss.backward()
        ours.step()
        ours.clear_grad()
        ours._learning_rate.step()
    assert losses[-1] < 0.9 * losses[0]
    for key, value in weights(model).items():
        assert (value == before[key]).all() == (key in frozen)


@pytest.mark.parametrize("clip", [ClipByGlobalNorm(1.0), ClipByValue(0.25)])
def test_clipping_sees_all_parameters_together(clip: Any) -> None:
    model = Model()
    groups = [ParameterGroup(["head.*"], learning_rate=0.1)]
    ours = optimizer(model, 0.1, name="sgd", groups=groups, clip=clip)
    before = weights(model)
    count = sum(p.size for p in model.parameters())
    sum((p * 2.0).sum() for p in model.parameters()).backward()
    ours.step()
    step = 0.25 if isinstance(clip, ClipByValue) else 1 / math.sqrt(count)
    for key, value in weights(model).items():
        np.testing.assert_allclose(before[key] - value, 0.1 * step, rtol=1e-3, err_msg=key)
    assert clip.last_norm == pytest.approx(2 * math.sqrt(count))


def test_options_reach_the_optimizer() -> None:
    ours = optimizer(Model(), 0.1, name="momentum", momentum=0.5, use_nesterov=True)
    assert (ours._momentum, ours._use_nesterov) == (0.5, True)
    assert optimizer(Model(), 0.1, name="lion", beta1=0.5)._beta1 == 0.5
    assert optimizer(Model(), 0.1, beta2=0.5)._beta2 == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adan"}, "name: expected one of 'adafactor', .* got 'adan'"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive number, got 0.0"),
        (
            {"momentum": 0.9},
            r"optimizer 'adamw': expected options that it takes, got {'momentum': 0.9}: .*momentum",
        ),
        ({"beta1": 2.0}, r"optimizer 'adamw': expected options that it takes, got {'beta1': 2.0}"),
        ({"name": "lion", "beta1": 2.0}, "beta1: expected a number from 0 up to but not 1, got 2.0"),
        (
            {"groups": [ParameterGroup(["tail.*"])]},
            "expected patterns that match parameters, got 'tail.*'; names",
        ),
        ({"groups": [ParameterGroup("head.*")]}, "groups: expected a list of patterns, got 'head.*'"),
        (
            {"groups": [ParameterGroup(["head.*"], learning_rate=0.0)]},
            "learning_rate: expected a positive number, got 0.0",
        ),
        (
            {"groups": [ParameterGroup(["head.*"], weight_decay=-1.0)]},
            "weight_decay: expected 0 or more, got -1.0",
        ),
        (
            {"groups": [ParameterGroup(["head.*"]), ParameterGroup(["*.weight"])]},
            "groups: expected each parameter in one group, got 'head.weight' in ",
        ),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    model = Model()
    model.head.weight.optimize_attr["learning_rate"] = 7.0
    with pytest.raises(InvalidInputError, match=message):
        optimizer(model, **({"learning_rate": 0.1} | options))
    assert model.head.weight.optimize_attr["learning_rate"] == 7.0  # nothing was changed


def test_freeze_and_unfreeze() -> None:
    model = Model()
    assert freeze(model, ["embedding.*", "layers.[0-9].dense.*"]) == [
        "embedding.weight",
        "embedding.bias",
        "layers.0.dense.weight",
        "layers.0.dense.bias",
        "layers.1.dense.weight",
        "layers.1.dense.bias",
    ]
    assert unfreeze(model, ["*.dense.bias"]) == ["layers.0.dense.bias", "layers.1.dense.bias"]
    learning = [name for name, p in model.named_parameters() if not p.stop_gradient]
    assert "layers.0.dense.bias" in learning
    assert "layers.0.dense.weight" not in learning
    assert len(optimizer(model, 0.1, name="sgd")._parameter_list) == len(learning) == 8


def test_patterns_that_match_nothing_change_nothing() -> None:
    model = Model()
    with pytest.raises(InvalidInputError, match=r"patterns: expected patterns that .* got 'haed\.\*'; names"):
        freeze(model, ["embedding.*", "haed.*"])
    assert not any(p.stop_gradient for p in model.parameters())
    with pytest.raises(InvalidInputError, match=r"patterns: expected a list of patterns, got 'head\.weight'"):
        freeze(model, "head.weight")
    with pytest.raises(InvalidInputError, match=r"patterns: expected a list of patterns, got \[\]"):
        unfreeze(model, [])


def test_running_statistics_are_never_trained() -> None:
    model = paddle.nn.Sequential(paddle.nn.Linear(2, 3), paddle.nn.BatchNorm1D(3))
    freeze(model, ["*"])
    assert unfreeze(model, ["*"]) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert model[1]._mean.stop_gradient
    assert model[1]._variance.stop_gradient
