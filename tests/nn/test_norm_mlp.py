"""RMS norm, perceptrons and stochastic depth."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from paddle_infra._core.errors import InvalidInputError
from tests.nn.reference import array, linear, randomize, tensor


def test_rms_norm_is_its_formula_forward_and_backward() -> None:
    torch = pytest.importorskip("torch")
    layer, x, direction = randomize(nn.RMSNorm(7, 1e-3)), array(2, 3, 7), array(2, 3, 7, seed=1)
    one = paddle.to_tensor(x, stop_gradient=False)
    two = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(layer.weight.numpy(), dtype=torch.float64, requires_grad=True)
    y, z = layer(one), torch.nn.functional.rms_norm(two, (7,), weight, 1e-3)
    (y * paddle.to_tensor(direction)).sum().backward()
    (z * torch.tensor(direction)).sum().backward()
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(one.grad.numpy(), two.grad.numpy(), atol=1e-5)
    np.testing.assert_allclose(layer.weight.grad.numpy(), weight.grad.numpy(), atol=1e-5)
    assert list(layer.state_dict()) == ["weight"]


def phi(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def gated(function, z: np.ndarray) -> np.ndarray:
    first, second = np.split(z, 2, axis=-1)
    return function(first) * second


ACTIVATIONS = {
    "gelu": lambda z: z * phi(z),
    "gelu_new": lambda z: 0.5 * z * (1.0 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "relu": lambda z: np.maximum(z, 0.0),
    "silu": silu,
    "swiglu": lambda z: gated(silu, z),
    "geglu": lambda z: gated(lambda x: x * phi(x), z),
}


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_its_formula(activation: str, use_bias: bool) -> None:
    paddle.seed(0)
    layer = randomize(nn.MLP(6, 10, activation, output_size=5, use_bias=use_bias))
    x = array(2, 3, 6)
    expected = linear(layer.output, ACTIVATIONS[activation](linear(layer.intermediate, x.astype("float64"))))
    y = layer(paddle.to_tensor(x))
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-5)
    y.sum().backward()
    names = ["intermediate.weight", "intermediate.bias", "output.weight", "output.bias"]
    assert list(layer.state_dict()) == (names if use_bias else names[::2])
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


def test_mlp_drops_in_training_only_and_names_wrong_sizes() -> None:
    layer, x = nn.MLP(6, 10, dropout=0.5), tensor(2, 3, 6)
    assert not np.array_equal(layer(x).numpy(), layer(x).numpy())
    layer.eval()
    assert np.array_equal(layer(x).numpy(), layer(x).numpy())
    with pytest.raises(InvalidInputError, match=r"intermediate_size: expected a positive integer, got 0"):
        nn.MLP(6, 0)
    with pytest.raises(
        InvalidInputError, match=r"activation must be one of \['gelu', .*'geglu'\], got 'mish'"
    ):
        nn.MLP(6, 10, "mish")


def test_drop_path_drops_whole_samples_and_divides_the_rest() -> None:
    paddle.seed(0)
    layer, x = nn.DropPath(0.25), tensor(4000, 2, 3) + 10.0
    x.stop_gradient = False
    y = layer(x)
    ratio = (y / x).numpy().reshape(4000, -1)
    assert np.allclose(ratio, ratio[:, :1])
    is_kept = ratio[:, 0] > 0
    np.testing.assert_allclose(ratio[is_kept], 1 / 0.75, rtol=1e-6)
    assert not ratio[~is_kept].any()
    assert abs(is_kept.mean() - 0.75) < 5 * math.sqrt(0.25 * 0.75 / 4000)  # five standard deviations
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy().reshape(4000, -1), ratio, rtol=1e-6)
    layer.eval()
    assert layer(x) is x
    assert nn.DropPath(0.0)(x) is x
    for wrong in (1.0, -0.1):
        with pytest.raises(
            InvalidInputError, match=rf"drop_path: expected a probability in \[0, 1\), got {wrong}"
        ):
            nn.DropPath(wrong)
