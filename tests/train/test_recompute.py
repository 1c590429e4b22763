"""Recomputed layers: the same gradients and dropout to the last bit, and memory that does not grow with depth."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.models import BertConfig, BertModel
from paddle_infra.train import recompute_layers, seed_everything
from tests.train.problem import SeekableLoader, assert_same_bits, make_trainer, tensors

WIDTH = 64


class Block(paddle.nn.Layer):
    """Linear layers and dropout, with a keyword-only argument and a layer inside."""

    def __init__(self, hidden: int = 128, dropout: float = 0.3) -> None:
        super().__init__()
        self.inner = paddle.nn.Sequential(
            paddle.nn.Linear(WIDTH, hidden),
            paddle.nn.GELU(),
            paddle.nn.Dropout(dropout),
            paddle.nn.Linear(hidden, WIDTH),
        )

    def forward(self, x: paddle.Tensor, *, scale: paddle.Tensor | None = None) -> paddle.Tensor:
        y = self.inner(x)
        return x + (y if scale is None else y * scale)


class Deep(paddle.nn.Layer):
    def __init__(self, blocks: int = 3, **options: Any) -> None:
        super().__init__()
        self.first = paddle.nn.Linear(64, WIDTH)
        self.blocks = paddle.nn.LayerList([Block(**options) for _ in range(blocks)])
        self.last = paddle.nn.Linear(WIDTH, 10)
        self.scale = self.create_parameter([1])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x, scale=self.scale)
        return self.last(x)


def deep(recomputed: str | None, **options: Any) -> paddle.nn.Layer:
    seed_everything(5)
    model = Deep(**options)
    if recomputed is not None:
        recompute_layers(model, recomputed)
    return model


def gradients(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    seed_everything(6)
    model(paddle.randn([8, 64])).square().mean().backward()
    return {name: parameter._grad_ivar().numpy() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("names", ["blocks.*", "blocks.1", "blocks.*.inner"])
def test_gradients_and_dropout_are_the_same_to_the_last_bit(names: str) -> None:
    assert_same_bits(gradients(deep(names)), gradients(deep(None)))


def test_a_run_is_the_same_to_the_last_bit() -> None:
    runs = []
    for names in (None, "blocks.*"):
        trainer = make_trainer(model=deep(names), accumulate=2)
        trainer.fit(SeekableLoader(), SeekableLoader(), max_steps=5)
        runs.append(tensors(trainer))
    assert_same_bits(*runs)


def test_a_fused_encoder_is_the_same_to_the_last_bit() -> None:
    config = BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48
    )
    ids = paddle.to_tensor(np.random.default_rng(0).integers(1, 99, (4, 9)))
    mask = (paddle.arange(9) < paddle.to_tensor([[9], [5], [7], [2]])).astype("int64")
    found = []
    for names in ([], "encoder.stack.layers.*"):
        seed_everything(1)
        model = BertModel(config)
        assert config.hidden_dropout_prob > 0
        assert len(recompute_layers(model, names)) == (3 if names else 0)
        model(ids, attention_mask=mask).square().mean().backward()
        used = {name: p._grad_ivar() for name, p in model.named_parameters()}
        found.append({name: gradient.numpy() for name, gradient in used.items() if gradient is not None})
    assert len(found[0]) > 40
    assert_same_bits(*found)


def test_which_layers_and_names_stay() -> None:
    model, plain = deep(None), deep(None)
    assert recompute_layers(model, ["blocks.*", "blocks.0"]) == ["blocks.0", "blocks.1", "blocks.2"]
    assert list(model.state_dict()) == list(plain.state_dict())


def test_a_copy_of_the_model_is_independent() -> None:
    model = deep("blocks.*")
    twin = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.set_value(paddle.zeros_like(parameter))
    assert_same_bits(gradients(twin), gradients(deep(None)))


def held_bytes(model: paddle.nn.Layer) -> int:
    """Bytes that are held between the forward pass and backward."""
    current = paddle.base.core.host_memory_stat_current_value
    x = paddle.randn([512, 64])
    before = current("Allocated", 0)
    loss = model(x).mean()
    held = current("Allocated", 0) - before
    loss.backward()
    return held


def test_activations_do_not_grow_with_the_width_inside() -> None:
    # One block holds 512 x 2048 numbers several times over; recomputed, only its input of 512 x 64.
    inside, between = 512 * 2048 * 4, 512 * WIDTH * 4
    options = {"hidden": 2048, "dropout": 0.1}
    plain = [held_bytes(deep(None, blocks=n, **options)) for n in (2, 4)]
    recomputed = [held_bytes(deep("blocks.*", blocks=n, **options)) for n in (2, 4)]
    assert plain[1] - plain[0] > 2 * 2 * inside
    assert 0 < recomputed[1] - recomputed[0] < 2 * 4 * between
    assert recomputed[1] < plain[1] / 20


def test_evaluation_and_no_grad_run_the_layer_itself() -> None:
    model, plain = deep("blocks.*"), deep(None)
    x = paddle.randn([4, 64])
    model.eval()
    plain.eval()
    assert np.array_equal(model(x).numpy(), plain(x).numpy())


def test_a_layer_on_frozen_inputs_still_trains() -> None:
    # Paddle's own recompute would give no gradient at all: none of the inputs needs one.
    block = paddle.nn.Sequential(("only", Block()))
    recompute_layers(block, "only")
    block(paddle.randn([4, WIDTH])).mean().backward()
    assert all(parameter._grad_ivar() is not None for parameter in block.parameters())


def test_refusals() -> None:
    model = deep(None)
    with pytest.raises(InvalidInputError, match=r"got 'layers.\*', which matches none of \['blocks'"):
        recompute_layers(model, ["blocks.*", "layers.*"])
    assert not any("forward" in layer.__dict__ for layer in model.sublayers())
    recompute_layers(model, "blocks.1")
    with pytest.raises(InvalidInputError, match=r"got \['blocks.1'\], whose forward is replaced already"):
        recompute_layers(model, "blocks.*")

    class Lists(paddle.nn.Layer):
        def forward(self, x: list[paddle.Tensor]) -> paddle.Tensor:
            return x[0] + x[1]

    outer = paddle.nn.Sequential(("sum", Lists()))
    recompute_layers(outer, "sum")
    x = paddle.ones([2])
    x.stop_gradient = False
    with pytest.raises(UnsupportedError, match=r"inputs with a gradient, got a list of them"):
        outer([x, x])
