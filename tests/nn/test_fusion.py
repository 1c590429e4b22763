from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from paddle_infra import nn
from paddle_infra._core.errors import InvalidInputError
from tests.nn.padded import mask_of, with_garbage
from tests.nn.programs import assert_program_is_layer


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def linear(layer: paddle.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x.astype("float64") @ layer.weight.numpy() + layer.bias.numpy()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


X, Y, Z = array(2, 5, 3), array(2, 5, 4, seed=1), array(2, 5, 2, seed=2)


def tensors(*arrays: np.ndarray) -> list[paddle.Tensor]:
    return [paddle.to_tensor(value) for value in arrays]


def test_concatenation_is_its_formula() -> None:
    layer = nn.ConcatFusion((3, 4, 2), 6)
    expected = np.maximum(linear(layer.projection, np.concatenate([X, Y, Z], -1)), 0)
    np.testing.assert_allclose(layer(tensors(X, Y, Z)).numpy(), expected, atol=1e-6)
    assert nn.ConcatFusion((3, 4), 6, "swiglu")(tensors(X, Y)).shape == [2, 5, 6]


def test_gates_are_their_formula() -> None:
    layer = nn.GatedFusion((3, 4, 2), 6)
    everything = np.concatenate([X, Y, Z], -1)
    expected = sum(
        sigmoid(linear(layer.gates[i], everything)) * np.tanh(linear(layer.projections[i], value))
        for i, value in enumerate((X, Y, Z))
    )
    np.testing.assert_allclose(layer(tensors(X, Y, Z)).numpy(), expected, atol=1e-6)

    two = nn.GatedFusion((3, 4), 6)
    assert len(two.gates) == 1
    gate = sigmoid(linear(two.gates[0], np.concatenate([X, Y], -1)))
    left, right = (np.tanh(linear(two.projections[i], value)) for i, value in enumerate((X, Y)))
    np.testing.assert_allclose(two(tensors(X, Y)).numpy(), gate * left + (1 - gate) * right, atol=1e-6)


def test_bilinear_is_its_formula() -> None:
    layer = nn.BilinearFusion((3, 4), 6, rank=5)
    products = np.tanh(linear(layer.left, X)) * np.tanh(linear(layer.right, Y))
    assert products.shape[-1] == 5
    np.testing.assert_allclose(layer(*tensors(X, Y)).numpy(), linear(layer.output, products), atol=1e-6)


def test_cross_attention_is_its_formula_whatever_stands_at_padding() -> None:
    paddle.seed(0)
    layer = nn.CrossAttentionFusion(8, 6, 2)
    layer.eval()
    hidden, memory, lengths = array(3, 4, 8), array(3, 5, 6, seed=1), [5, 1, 3]
    q, attention = linear(layer.attention.query, hidden), layer.attention
    expected = np.empty_like(q)
    for row, length in enumerate(lengths):
        k, v = linear(attention.key, memory[row, :length]), linear(attention.value, memory[row, :length])
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            weight = np.exp(q[row, :, part] @ k[:, part].T / 2.0)
            heads.append(weight / weight.sum(-1, keepdims=True) @ v[:, part])
        out = hidden[row] + linear(attention.output, np.concatenate(heads, -1))
        expected[row] = (out - out.mean(-1, keepdims=True)) / np.sqrt(out.var(-1, keepdims=True) + 1e-5)
    gradients = []
    direction = paddle.to_tensor(array(3, 4, 8, seed=2))
    for extra in (0, 1, 7):
        seen = paddle.to_tensor(with_garbage(memory, lengths, extra), stop_gradient=False)
        layer.clear_gradients()
        got = layer(paddle.to_tensor(hidden), seen, paddle.to_tensor(mask_of(lengths, 5 + extra)))
        np.testing.assert_allclose(got.numpy(), expected, atol=5e-6)
        (got * direction).sum().backward()
        assert not any(seen.grad.numpy()[row, length:].any() for row, length in enumerate(lengths))
        gradients.append([seen.grad.numpy()[:, :5], *(p.grad.numpy() for p in layer.parameters())])
    for other in gradients[1:]:
        for one, same in zip(gradients[0], other, strict=True):
            np.testing.assert_allclose(same, one, atol=1e-5)


FUSIONS = {
    "concat": lambda: nn.ConcatFusion((3, 4), 6),
    "gated": lambda: nn.GatedFusion((3, 4), 6),
    "bilinear": lambda: nn.BilinearFusion((3, 4), 6),
}


class _Two(paddle.nn.Layer):
    """Two named inputs for a program."""

    def __init__(self, fusion: paddle.nn.Layer) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        return self.fusion(x, y) if isinstance(self.fusion, nn.BilinearFusion) else self.fusion([x, y])


@pytest.mark.parametrize("kind", FUSIONS)
def test_programs(kind: str, tmp_path: Path) -> None:
    paddle.seed(0)
    specs = [InputSpec([None, None, 3], "float32", "x"), InputSpec([None, None, 4], "float32", "y")]
    inputs = [tensors(X, Y), tensors(X[:1, :1], Y[:1, :1])]
    assert_program_is_layer(_Two(FUSIONS[kind]()), specs, inputs, tmp_path)


def test_cross_attention_program(tmp_path: Path) -> None:
    specs = [
        InputSpec([None, None, 8], "float32", "hidden"),
        InputSpec([None, None, 6], "float32", "memory"),
        InputSpec([None, None], "int64", "mask"),
    ]
    inputs = [
        [*tensors(array(2, 3, 8), array(2, 5, 6)), paddle.to_tensor(mask_of([5, 2], 5))],
        [*tensors(array(1, 1, 8), array(1, 1, 6)), paddle.to_tensor([[1]])],
    ]
    assert_program_is_layer(nn.CrossAttentionFusion(8, 6, 2), specs, inputs, tmp_path, tolerance=1e-5)


def test_names_and_errors() -> None:
    names = {name.rpartition(".")[0] for name, _ in nn.GatedFusion((3, 4, 2), 6).named_parameters()}
    assert names == {f"{part}.{i}" for part in ("gates", "projections") for i in range(3)}
    names = {name.rpartition(".")[0] for name, _ in nn.BilinearFusion((3, 4), 6).named_parameters()}
    assert names == {"left", "right", "output"}
    names = {name.rpartition(".")[0] for name, _ in nn.CrossAttentionFusion(8, 6, 2).named_parameters()}
    assert names == {"norm", *(f"attention.{part}" for part in ("query", "key", "value", "output"))}
    layer = nn.GatedFusion((3, 4), 6)
    with pytest.raises(InvalidInputError, match="inputs: expected 2 tensors, got 1"):
        layer(tensors(X))
    with pytest.raises(InvalidInputError, match=r"inputs\[1\]: expected shape \[2, 5, 4\].*got \[2, 5, 2\]"):
        layer(tensors(X, Z))
    with pytest.raises(InvalidInputError, match=r"input_sizes: expected at least 2, got \[3\]"):
        nn.ConcatFusion((3,), 4)
    with pytest.raises(InvalidInputError, match=r"input_sizes: expected 2, got \[3, 4, 2\]"):
        nn.BilinearFusion((3, 4, 2), 4)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"memory: expected shape \[-1, -1, 6\].*got \[2, 3, 8\]"):
        nn.CrossAttentionFusion(8, 6, 2)(paddle.rand([2, 3, 8]), paddle.rand([2, 3, 8]))
