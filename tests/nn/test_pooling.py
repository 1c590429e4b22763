from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from paddle_infra import nn
from paddle_infra._core.errors import InvalidInputError
from tests.nn.padded import assert_padding_has_no_effect
from tests.nn.programs import assert_program_is_layer

LAYERS: dict[str, Callable[[], paddle.nn.Layer]] = {
    "cls": lambda: nn.Pooling("cls"),
    "last": lambda: nn.Pooling("last"),
    "max": lambda: nn.Pooling("max"),
    "mean": lambda: nn.Pooling("mean"),
    "attention": lambda: nn.AttentionPooling(4, 3, num_heads=2),
}


def test_functions_by_hand_with_padding_anywhere() -> None:
    nan = float("nan")
    hidden = paddle.to_tensor([[[-3.0], [-1.0], [nan]], [[nan], [nan], [-5.0]], [[nan], [9.0], [nan]]])
    mask = paddle.to_tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    assert nn.max_pool(hidden, mask).tolist() == [[-1.0], [-5.0], [0.0]]
    assert nn.last_pool(hidden, mask).tolist() == [[-1.0], [-5.0], [0.0]]
    assert nn.mean_pool(hidden, mask).tolist() == [[-2.0], [-5.0], [0.0]]
    assert nn.last_pool(hidden, paddle.to_tensor([[True, False, True]] * 3)).isnan().tolist() == [
        [True],
        [False],
        [True],
    ]
    for kind in ("last", "max", "mean"):
        layer = nn.Pooling(kind)
        np.testing.assert_array_equal(layer(hidden, mask), getattr(nn, f"{kind}_pool")(hidden, mask))
        np.testing.assert_array_equal(layer(hidden[:1, :2]), layer(hidden[:1], mask[:1]))


@pytest.mark.parametrize("kind", LAYERS)
def test_padding_has_no_effect(kind: str) -> None:
    paddle.seed(0)
    layer = LAYERS[kind]()
    assert_padding_has_no_effect(layer, lambda hidden, lengths, mask: [layer(hidden, mask)], 4)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_row_without_tokens_gives_zeros_and_finite_gradients(kind: str) -> None:
    hidden = paddle.rand([2, 3, 4])
    hidden.stop_gradient = False
    layer = LAYERS[kind]()
    pooled = layer(hidden, paddle.to_tensor([[0, 0, 0], [1, 1, 0]]))
    (pooled * pooled).sum().backward()
    if kind != "cls":  # the first position, whatever it is
        assert not pooled[0].numpy().any()
        assert not hidden.grad[0].numpy().any()
    assert np.isfinite(hidden.grad.numpy()).all()
    assert pooled[1].numpy().any()


def test_attention_pooling_is_its_formula() -> None:
    paddle.seed(0)
    layer = nn.AttentionPooling(4, 3, num_heads=2)
    hidden = np.random.default_rng(0).standard_normal((2, 5, 4))
    got = layer(paddle.to_tensor(hidden.astype("float32"))).numpy()
    keys = np.tanh(hidden @ layer.key.weight.numpy() + layer.key.bias.numpy())
    weight = np.exp(keys @ layer.query.weight.numpy())
    weight /= weight.sum(1, keepdims=True)
    expected = np.einsum("bth,btd->bhd", weight, hidden).reshape(2, 8)
    np.testing.assert_allclose(got, expected, atol=1e-6)


class _Pooled(paddle.nn.Layer):
    def __init__(self, pooling: paddle.nn.Layer) -> None:
        super().__init__()
        self.projection, self.pooling = paddle.nn.Linear(4, 4), pooling

    def forward(self, hidden: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        return self.pooling(self.projection(hidden), mask)


@pytest.mark.parametrize("kind", sorted(set(LAYERS) - {"cls"}))  # cls has no use for the mask
def test_programs(kind: str, tmp_path: Path) -> None:
    paddle.seed(0)
    specs = [InputSpec([None, None, 4], "float32", "hidden"), InputSpec([None, None], "int64", "mask")]
    inputs = [
        [paddle.rand([2, 3, 4]), paddle.to_tensor([[1, 1, 1], [1, 0, 0]])],
        [paddle.rand([1, 1, 4]), paddle.to_tensor([[1]])],
    ]
    assert_program_is_layer(_Pooled(LAYERS[kind]()), specs, inputs, tmp_path)


def test_length_mask() -> None:
    mask = nn.length_mask(paddle.to_tensor([2, 0, 3]), paddle.zeros([3, 3, 7]))
    assert mask.tolist() == [[True, True, False], [False, False, False], [True, True, True]]
    with pytest.raises(InvalidInputError, match=r"lengths\[1\]: expected a length in \[0, 3\], got -1"):
        nn.length_mask(paddle.to_tensor([2, -1]), paddle.zeros([2, 3]))


def test_names_and_errors() -> None:
    names = {name for name, _ in nn.AttentionPooling(4).named_parameters()}
    assert names == {"key.weight", "key.bias", "query.weight"}
    with pytest.raises(InvalidInputError, match=r"kind: expected one of .*got 'sum'"):
        nn.Pooling("sum")
    with pytest.raises(InvalidInputError, match=r"attention_mask: expected shape \[2, 3\].*got \[2, 4\]"):
        nn.Pooling("max")(paddle.rand([2, 3, 4]), paddle.ones([2, 4]))
    with pytest.raises(InvalidInputError, match=r"hidden: expected shape \[-1, -1, 4\].*got \[2, 3, 5\]"):
        nn.AttentionPooling(4)(paddle.rand([2, 3, 5]))
    with pytest.raises(InvalidInputError, match="num_heads: expected a positive integer, got 0"):
        nn.AttentionPooling(4, num_heads=0)
