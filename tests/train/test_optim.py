from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import adamw, schedule_factor
from paddle_infra.train.optimizers.optim import layer_of_parameters


class Block(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.dense = paddle.nn.Linear(4, 4)
        self.after = paddle.nn.LayerNorm(4)  # a norm that only its class tells

    def forward(self, x: Any) -> Any:
        return self.after(self.dense(x))


class Model(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = paddle.nn.Linear(4, 4)
        self.layers = paddle.nn.LayerList([Block(), Block()])
        self.head = paddle.nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        x = self.embedding(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # 2 warm-up steps, 6 in all: 1/2, 2/2, then g(0), g(1/4), g(2/4), g(3/4), then g(1)
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
        ("cosine", [0.5, 1.0, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0, 0.0]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedule_by_hand(schedule: Any, expected: list[float]) -> None:
    optimizer = adamw(Model(), 0.01, weight_decay=0.0, warmup_steps=2, total_steps=6, schedule=schedule)
    rates = []
    for _ in expected:
        rates.append(optimizer.get_lr())
        optimizer._learning_rate.step()
    assert rates == pytest.approx([0.01 * factor for factor in expected], abs=1e-15)
    function = schedule_factor(schedule, 2, 6)
    assert [function(step) for step in range(8)] == pytest.approx(expected, abs=1e-15)


def test_no_warmup_starts_at_the_peak() -> None:
    assert schedule_factor("linear", 0, 4)(0) == 1.0
    assert schedule_factor("constant", 0, None)(10**6) == 1.0


def one_step(**options: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Weights before and after one step of a constant schedule with zero gradients."""
    model = Model()
    optimizer = adamw(model, 0.1, schedule="constant", **options)
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    (model(paddle.ones([1, 4])).sum() * 0.0).backward()
    optimizer.step()
    return {name: (before[name], p.numpy()) for name, p in model.named_parameters()}


def test_decay_of_weights_but_not_of_biases_and_norms() -> None:
    for name, (before, after) in one_step(weight_decay=0.5).items():
        factor = 1.0 if "bias" in name or "after" in name else 1 - 0.1 * 0.5
        np.testing.assert_allclose(after, before * factor, rtol=1e-6, err_msg=name)


def test_own_words_for_no_decay() -> None:
    for name, (before, after) in one_step(weight_decay=0.5, no_decay=["HEAD"]).items():
        factor = 1.0 if "head" in name else 1 - 0.1 * 0.5
        np.testing.assert_allclose(after, before * factor, rtol=1e-6, err_msg=name)


def test_layer_decay_scales_the_rate_per_layer() -> None:
    for name, (before, after) in one_step(weight_decay=0.5, no_decay=(), layer_decay=0.5).items():
        depth = {"embedding": 3, "layers.0": 2, "layers.1": 1, "head": 0}
        factor = 0.5 ** next(value for prefix, value in depth.items() if name.startswith(prefix))
        np.testing.assert_allclose(after, before * (1 - 0.1 * factor * 0.5), rtol=1e-6, err_msg=name)


def test_layer_numbers() -> None:
    names = [
        "embeddings.word.weight",
        "encoder.layers.0.a",
        "encoder.layers.11.mlp.2.b",
        "pooler.weight",
        "head.bias",
    ]
    assert list(layer_of_parameters(names).values()) == [0, 1, 12, 13, 13]
    assert layer_of_parameters(["a", "b"]) == {"a": 0, "b": 0}


def test_gradients_are_clipped_by_global_norm() -> None:
    model = Model()
    optimizer = adamw(model, 0.1, weight_decay=0.0, schedule="constant", max_grad_norm=1.0)
    pairs = [(p, paddle.full_like(p, 100.0)) for p in model.parameters()]
    clipped = optimizer._grad_clip(pairs)
    assert math.sqrt(sum(float((g**2).sum()) for _, g in clipped)) == pytest.approx(1.0, rel=1e-5)
    unclipped = adamw(model, 0.1, weight_decay=0.0, schedule="constant", max_grad_norm=None)
    assert unclipped._grad_clip is None


def test_equals_plain_adamw() -> None:
    paddle.seed(0)
    left, right = Model(), Model()
    right.set_state_dict(left.state_dict())
    ours = adamw(left, 0.1, weight_decay=0.3, no_decay=(), schedule="constant", max_grad_norm=None)
    theirs = paddle.optimizer.AdamW(0.1, parameters=right.parameters(), weight_decay=0.3)
    for _ in range(3):
        for model, optimizer in ((left, ours), (right, theirs)):
            model(paddle.ones([2, 4])).square().sum().backward()
            optimizer.step()
            optimizer.clear_grad()
    for a, b in zip(left.parameters(), right.parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_frozen_parameters_are_left_out() -> None:
    model = Model()
    model.embedding.weight.stop_gradient = True
    optimizer = adamw(model, 0.1, weight_decay=0.0, schedule="constant")
    assert len(optimizer._parameter_list) == len(model.parameters()) - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate: expected a positive number, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate: expected a positive number, got nan"),
        ({"weight_decay": -1.0}, "weight_decay: expected 0 or more, got -1.0"),
        ({"layer_decay": 1.5}, "layer_decay: expected a number above 0 and up to 1, got 1.5"),
        ({"max_grad_norm": 0.0}, "max_grad_norm: expected a positive number or None, got 0.0"),
        ({"warmup_steps": -1}, "warmup_steps: expected 0 or more, got -1"),
        ({"schedule": "linear"}, r"total_steps: expected more than warmup_steps \(0\) .* got None"),
        (
            {"schedule": "cosine", "warmup_steps": 5, "total_steps": 5},
            r"more than warmup_steps \(5\) .* got 5",
        ),
        (
            {"schedule": "step"},
            "schedule: expected 'linear', 'cosine', 'constant', 'polynomial' or 'inverse_sqrt', got 'step'",
        ),
        ({"no_decay": ["bais"]}, "no_decay: expected a word found in parameter names, got 'bais'; names: "),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    arguments = {"learning_rate": 0.1, "weight_decay": 0.0, "schedule": "constant"} | options
    with pytest.raises(InvalidInputError, match=message):
        adamw(Model(), **arguments)


def test_model_without_trainable_parameters() -> None:
    with pytest.raises(InvalidInputError, match="expected a model with trainable parameters, got none"):
        adamw(paddle.nn.ReLU(), 0.1, weight_decay=0.0, schedule="constant")
