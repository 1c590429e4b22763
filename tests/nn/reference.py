"""What the tests of layers share: arrays, attention in float64, weights copied to PyTorch, garbage as padding."""

from __future__ import annotations

import numpy as np
import paddle

from paddle_infra import nn


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def tensor(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(array(*shape, seed=seed))


def randomize(layer: paddle.nn.Layer, seed: int = 0) -> paddle.nn.Layer:
    """Give every parameter random values, also biases and norms, so that none can be forgotten."""
    rng = np.random.default_rng(seed)
    for _, parameter in layer.named_parameters():
        noise = rng.standard_normal(parameter.shape) * 0.3
        parameter.set_value((parameter.numpy() + noise).astype("float32"))
    return layer


def linear(layer: paddle.nn.Linear, x: np.ndarray) -> np.ndarray:
    y = x @ layer.weight.numpy().astype("float64")
    return y if layer.bias is None else y + layer.bias.numpy()


def heads(x: np.ndarray, count: int) -> np.ndarray:
    """``[batch, length, width]`` to ``[batch, head, length, head_dim]``."""
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def attention(
    layer: nn.MultiHeadAttention, hidden: np.ndarray, memory: np.ndarray, scores_bias: np.ndarray
) -> np.ndarray:
    """Multi-head attention in float64; ``scores_bias`` is added to the scores, -inf hides."""
    hidden, memory = hidden.astype("float64"), memory.astype("float64")
    query = heads(linear(layer.query, hidden), layer.num_heads)
    key, value = (heads(linear(part, memory), layer.num_kv_heads) for part in (layer.key, layer.value))
    groups = layer.num_heads // layer.num_kv_heads
    key, value = key.repeat(groups, axis=1), value.repeat(groups, axis=1)
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(layer.head_dim) + scores_bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    context = (weights @ value).transpose(0, 2, 1, 3)
    return linear(layer.output, context.reshape(*context.shape[:2], -1))


def hide(visible: np.ndarray) -> np.ndarray:
    return np.where(visible, 0.0, -np.inf)


def padded(x: np.ndarray, extra: int, seed: int = 9) -> paddle.Tensor:
    """Append ``extra`` positions of large garbage, as a tensor that wants a gradient."""
    garbage = 50.0 * array(x.shape[0], extra, x.shape[2], seed=seed)
    y = paddle.to_tensor(np.concatenate([x, garbage], axis=1))
    y.stop_gradient = False
    return y


def gradients(layer: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """Return the gradients of all parameters, and clear them."""
    found = {name: parameter.grad.numpy().copy() for name, parameter in layer.named_parameters()}
    layer.clear_gradients()
    return found
