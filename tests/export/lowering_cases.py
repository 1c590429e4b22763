"""One small program for each operator that can be lowered, as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

generator = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return generator.normal(size=shape).astype("float32")


def integers(high: int, *shape: int, dtype: str = "int64", low: int = 0) -> np.ndarray:
    return generator.integers(low, high, size=shape).astype(dtype)


@dataclass(frozen=True)
class Case:
    """A function, its inputs, and which axes may vary (all first axes, if nothing else is said)."""

    function: Callable[..., Any]
    inputs: dict[str, np.ndarray]
    axes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    least_opset: int = 13
    atol: float = 2e-6


X = {"x": normal(2, 3, 4)}
XY = {"x": normal(2, 3, 4), "y": normal(3, 1)}
POSITIVE = {"x": np.abs(normal(2, 3, 4)) + 0.5}
UNIT = {"x": np.tanh(normal(2, 3, 4))}
IMAGE = {"x": normal(2, 4, 9, 8)}
IMAGE_AXES = {"x": (0, 2, 3)}
BOOLS = {"x": generator.random((2, 3, 4)) < 0.5, "y": generator.random((2, 3, 4)) < 0.5}
INTEGERS = {"x": integers(9, 2, 3, 4, low=-9), "y": integers(5, 2, 3, 4, low=1)}
SIGNED = {"x": integers(9, 2, 3, low=-9), "y": np.array([[3, -3, 2], [-2, 5, -5]])}
NEGATIVE_DIVISOR = {"x": normal(2, 3) * 5, "y": np.array([[3, -3, 2], [-2, 5, -5]], "float32")}

_UNARY = (
    *(
        "relu",
        "sigmoid",
        "tanh",
        "exp",
        "abs",
        "floor",
        "ceil",
        "round",
        "sign",
        "sin",
        "cos",
        "sinh",
        "cosh",
        "erf",
    ),
    *("square", "softsign", "silu", "mish", "relu6", "hardswish", "hardsigmoid", "elu", "logsigmoid", "gelu"),
    *("softplus", "leaky_relu", "tan", "atan"),
)
_BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum", "pow"]
_COMPARED = ["equal", "not_equal", "less_than", "less_equal", "greater_than", "greater_equal"]


def _functional(name: str) -> Callable[[Tensor], Tensor]:
    found: Callable[[Tensor], Tensor] = getattr(paddle, name, None) or getattr(F, name)
    return found


def _split_lengths(x: Tensor) -> Any:
    first, second, third = paddle.split(x, [1, -1, 1], axis=2)
    return first * 2, second, third


def _interpolate(**options: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: F.interpolate(x, **options)


def _reshape(x: Tensor) -> Tensor:
    return x.reshape([x.shape[0], x.shape[1] * 4])


def _slice(x: Tensor, y: Tensor) -> Tensor:
    return x[:, : y.shape[1]]


def _full(x: Tensor) -> Tensor:
    return x + paddle.ones([x.shape[0], 1, 4])


def _arange(x: Tensor) -> Tensor:
    return x + paddle.arange(x.shape[2]).astype("float32")


CASES: dict[str, Case] = {
    **{name: Case(_functional(name), X, {"x": (0, 1)}) for name in _UNARY},
    **{name: Case(_functional(name), POSITIVE) for name in ("log", "sqrt", "rsqrt", "reciprocal")},
    **{name: Case(_functional(name), UNIT) for name in ("asin", "acos")},
    **{name: Case(_functional(name), {"x": np.abs(XY["x"]) + 0.1, "y": XY["y"]}) for name in _BINARY},
    **{name: Case(_functional(name), INTEGERS) for name in _COMPARED},
    **{name: Case(_functional(name), BOOLS) for name in ("logical_and", "logical_or", "logical_xor")},
    "bitwise, booleans": Case(lambda x, y: (x & y, x | y, x ^ y, ~x), BOOLS),
    "bitwise, integers": Case(lambda x, y: (x & y, x | y, x ^ y, ~x), INTEGERS, least_opset=18),
    "logical_not": Case(lambda x, y: (paddle.logical_not(x), y), BOOLS),
    "less_than of bool": Case(paddle.less_than, BOOLS),
    "gelu, tanh": Case(lambda x: F.gelu(x, approximate=True), X, {"x": (0, 1)}),
    "softplus, beta": Case(lambda x: F.softplus(x, beta=3.0, threshold=2.0), X),
    "leaky_relu, slope": Case(lambda x: F.leaky_relu(x, 0.3), X),
    "elu, alpha": Case(lambda x: F.elu(x, 0.7), X),
    "isnan": Case(lambda x: (paddle.isnan(paddle.log(x)), paddle.isinf(paddle.exp(x * 100.0))), X),
    "floor_divide": Case(paddle.floor_divide, SIGNED),
    "floor_divide, float": Case(paddle.floor_divide, NEGATIVE_DIVISOR),
    "remainder": Case(paddle.remainder, SIGNED),
    "remainder, float": Case(paddle.remainder, NEGATIVE_DIVISOR),
    "clip": Case(lambda x: paddle.clip(x, -0.5, 0.7), X),
    "clip, integers": Case(lambda x, y: paddle.clip(x, -2, 3) + y, INTEGERS),
    "scale": Case(
        lambda x: (paddle.scale(x, 2.5, 0.25), paddle.scale(x, 2.5, 0.25, bias_after_scale=False)), X
    ),
    "scalars": Case(lambda x: 3.0 - x * 2.0 + 1.0 / (x * x + 1.0) + x**3, X),
    "integer scalars": Case(lambda x, y: (x * 3 - 1, x + y, 7 - x), INTEGERS),
    "where": Case(lambda x, y: paddle.where(x > y, x, y * 2.0), XY),
    "cast": Case(
        lambda x: (x.astype("int32"), x.astype("float64"), (x > 0).astype("float32"), x.astype("bool")), X
    ),
    "dropout": Case(lambda x: F.dropout(x, 0.4, training=False), X),
    "dropout, scaled": Case(lambda x: F.dropout(x, 0.4, training=False, mode="downscale_in_infer"), X),
    "add_n": Case(lambda x: paddle.add_n([x, x * 2.0, x]), X),
    # Products.
    "matmul": Case(
        lambda x, y: paddle.matmul(x, y), {"x": normal(2, 3, 4), "y": normal(4, 5)}, {"x": (0, 1)}
    ),
    "matmul, transposed": Case(
        lambda x, y: paddle.matmul(x, y, transpose_x=True, transpose_y=True),
        {"x": normal(2, 4, 3), "y": normal(2, 5, 4)},
        {"x": (0, 2), "y": (0, 1)},
    ),
    "matmul, vector": Case(
        lambda x, y: paddle.matmul(x, y), {"x": normal(2, 3, 4), "y": normal(4)}, {"y": ()}
    ),
    "bmm": Case(paddle.bmm, {"x": normal(2, 3, 4), "y": normal(2, 4, 5)}),
    "mv": Case(paddle.mv, {"x": normal(3, 4), "y": normal(4)}, {"y": ()}),
    "dot": Case(paddle.dot, {"x": normal(3, 4), "y": normal(3, 4)}),
    "addmm": Case(
        lambda x, y, z: paddle.addmm(x, y, z, beta=0.5, alpha=2.0),
        {"x": normal(3, 5), "y": normal(3, 4), "z": normal(4, 5)},
        {"z": ()},
    ),
    "einsum": Case(
        lambda x, y: paddle.einsum("bij,bkj->bik", x, y),
        {"x": normal(2, 3, 4), "y": normal(2, 5, 4)},
        {"x": (0, 1), "y": (0, 1)},
    ),
    # Shapes.
    "shape": Case(lambda x: (paddle.shape(x), x + 0.0), X, {"x": (0, 2)}),
    "numel": Case(lambda x: (paddle.numel(x), x + 0.0), X),
    "reshape": Case(lambda x: (x.reshape([0, 12]), x.reshape([-1, 2, 2])), X),
    "reshape to a computed shape": Case(_reshape, X, {"x": (0, 1)}),
    "flatten": Case(lambda x: (x.flatten(), x.flatten(1), x.flatten(0, 1)), X, {"x": (0, 1)}),
    "flatten before an axis of any size": Case(lambda x: x.flatten(1, 2), IMAGE, IMAGE_AXES),
    "transpose": Case(lambda x: x.transpose([2, 0, 1]), X, {"x": (0, 1)}),
    "unsqueeze": Case(
        lambda x: (x.unsqueeze([0, 2]), x.unsqueeze(-1), x.unsqueeze([-1, 1])), X, {"x": (0, 1)}
    ),
    "squeeze": Case(lambda x: (x.squeeze(1), x.squeeze([1, 3])), {"x": normal(2, 1, 3, 1)}),
    "concat": Case(lambda x, y: paddle.concat([x, y, x], axis=-1), {"x": normal(2, 3), "y": normal(2, 4)}),
    "stack": Case(lambda x: (paddle.stack([x, x * 2.0], 0), paddle.stack([x, x], -1)), X),
    "unstack": Case(lambda x: tuple(part + 1.0 for part in paddle.unstack(x, axis=1)), X),
    "unbind": Case(lambda x: tuple(part + 1.0 for part in paddle.unbind(x, axis=2)), X),
    "split": Case(_split_lengths, X),
    "split_with_num": Case(lambda x: tuple(part + 1.0 for part in paddle.split(x, 2, axis=-1)), X),
    "expand": Case(lambda x: x.expand([5, -1, 4]), {"x": normal(3, 1)}, {"x": ()}),
    "expand_as": Case(lambda x, y: y.expand_as(x), XY, {"y": ()}),
    "broadcast_tensors": Case(
        lambda x, y: tuple(t + 0.0 for t in paddle.broadcast_tensors([x, y])), XY, {"y": ()}
    ),
    "tile": Case(lambda x: (x.tile([2, 1, 3]), x.tile([2, 1, 1, 2])), X),
    "flip": Case(lambda x: paddle.flip(x, [0, 2]), X),
    "pad": Case(lambda x: F.pad(x, [1, 2, 0, 3], value=0.5), IMAGE, IMAGE_AXES),
    "pad, reflect": Case(lambda x: F.pad(x, [1, 2, 1, 3], mode="reflect"), IMAGE, IMAGE_AXES),
    "pad, replicate": Case(lambda x: F.pad(x, [1, 2, 0, 3], mode="replicate"), IMAGE, IMAGE_AXES),
    "pad, circular": Case(
        lambda x: F.pad(x, [1, 2, 1, 3], mode="circular"), IMAGE, IMAGE_AXES, least_opset=19
    ),
    "tril": Case(lambda x: (paddle.tril(x), paddle.triu(x, 1)), X, least_opset=14),
    # Reductions.
    "sum": Case(lambda x: (x.sum(), x.sum(1), x.sum([0, -1], keepdim=True)), X, {"x": (0, 1)}),
    "sum of bool": Case(lambda x, y: (x.sum(1), y.astype("int32").sum(0)), BOOLS),
    "mean": Case(lambda x: (x.mean(), x.mean(-1), x.mean([0, 1], keepdim=True)), X, {"x": (0, 1)}),
    "max": Case(
        lambda x: (x.max(), x.max(1), x.min(-1, keepdim=True), x.amax(0), x.amin(0)), X, {"x": (0, 1)}
    ),
    "prod": Case(lambda x: x.prod(1), X),
    "any": Case(lambda x, y: (x.any(), x.all(1), y.any([0, 2], keepdim=True)), BOOLS),
    "logsumexp": Case(lambda x: (paddle.logsumexp(x * 50.0, -1), paddle.logsumexp(x)), X, atol=1e-5),
    "norm": Case(lambda x: (x.norm(axis=-1), x.norm(p=1, axis=1, keepdim=True), x.norm()), X),
    "normalize": Case(lambda x: F.normalize(x, axis=-1), X),
    "argmax": Case(
        lambda x: (x.argmax(-1), x.argmax(), x.argmin(1, keepdim=True), x.argmax(1, dtype="int32")), X
    ),
    "topk": Case(lambda x: paddle.topk(x, 2, axis=1), X),
    "argsort": Case(lambda x: (paddle.argsort(x, -1), paddle.sort(x, 1, descending=True)), X, {"x": (0, 2)}),
    "cumsum": Case(lambda x: (paddle.cumsum(x, 1), paddle.cumsum(x)), X),
    "softmax": Case(lambda x: (F.softmax(x, 1), F.log_softmax(x, -1)), X),
    # Indices.
    "embedding": Case(
        lambda x, y: F.embedding(x, y), {"x": integers(7, 2, 3), "y": normal(7, 4)}, {"x": (0, 1), "y": ()}
    ),
    "gather": Case(
        lambda x, y: paddle.gather(x, y, axis=1), {"x": normal(2, 5, 3), "y": np.array([4, 0, 4])}
    ),
    "index_select": Case(paddle.index_select, {"x": normal(5, 3), "y": np.array([4, 0, 4])}),
    "gather_nd": Case(paddle.gather_nd, {"x": normal(3, 4, 2), "y": np.array([[0, 1], [2, 3]])}),
    "take_along_axis": Case(
        lambda x, y: paddle.take_along_axis(x, y, 1), {"x": normal(2, 5), "y": integers(5, 2, 3)}
    ),
    "slices": Case(
        lambda x: (x[:, 1], x[..., :-1], x[0], x[:, -2:], x[:, ::2, 1], x[:, ::-1], x[:, None]),
        X,
        {"x": (0, 2)},
    ),
    "slice to a computed end": Case(_slice, {"x": normal(2, 9), "y": normal(2, 4)}, {"y": (0, 1)}),
    "one_hot": Case(lambda x: F.one_hot(x, 5), {"x": integers(5, 2, 3)}),
    "nonzero": Case(lambda x, y: (paddle.nonzero(x), y), BOOLS),
    "put_along_axis": Case(
        lambda x, y, z: paddle.put_along_axis(x, y, z, 1),
        {"x": normal(2, 5), "y": np.array([[0, 3], [4, 1]]), "z": normal(2, 2)},
    ),
    "index_put": Case(
        lambda x, y, z: (
            paddle.index_put(x, (y, paddle.to_tensor([[2], [0]])), z),
            paddle.index_put(x, (y,), paddle.to_tensor(0.5)),
        ),
        {"x": normal(5, 3, 2), "y": np.array([1, 4, 0]), "z": normal(2, 3, 2)},
        {"x": (0,), "y": (), "z": ()},
    ),
    "index_put, adding": Case(
        lambda x, y, z: paddle.index_put(x, (y,), z, accumulate=True),
        {"x": normal(5, 2), "y": np.array([1, 1, 4]), "z": normal(3, 2)},
        least_opset=16,
    ),
    "scatter_nd_add": Case(
        paddle.scatter_nd_add,
        {"x": normal(5, 2), "y": np.array([[1], [1], [4]]), "z": normal(3, 2)},
        least_opset=16,
    ),
    # Constants.
    "full": Case(lambda x: x + paddle.full([3, 4], 1.5) + paddle.ones([4]) - paddle.zeros_like(x), X),
    "full_like": Case(lambda x: (paddle.full_like(x, 2.5), paddle.ones_like(x)), X, {"x": (0, 1)}),
    "full of a computed shape": Case(_full, X, {"x": (0, 1)}),
    "arange": Case(_arange, X, {"x": (0, 2)}),
    "arange, constant": Case(lambda x: x + paddle.arange(0, 8, 2).astype("float32"), X),
    "to_tensor": Case(lambda x: x + paddle.to_tensor([1.0, 2.0, 3.0, 4.0]), X),
    # Images.
    "conv2d": Case(
        lambda x, w: F.conv2d(x, w, stride=2, padding=[1, 0], dilation=[1, 2]),
        {"x": IMAGE["x"], "w": normal(6, 4, 3, 3)},
        {**IMAGE_AXES, "w": ()},
        atol=1e-5,
    ),
    "conv2d, groups and bias": Case(
        lambda x, w, b: F.conv2d(x, w, b, padding="SAME", groups=4),
        {"x": IMAGE["x"], "w": normal(4, 1, 3, 3), "b": normal(4)},
        {**IMAGE_AXES, "w": (), "b": ()},
        atol=1e-5,
    ),
    "conv2d, uneven padding": Case(
        lambda x, w: F.conv2d(x, w, padding=[0, 1, 2, 3]),
        {"x": IMAGE["x"], "w": normal(6, 4, 3, 3)},
        {**IMAGE_AXES, "w": ()},
        atol=1e-5,
    ),
    "conv1d": Case(
        lambda x, w, b: F.conv1d(x, w, b, padding=1),
        {"x": normal(2, 4, 9), "w": normal(6, 4, 3), "b": normal(6)},
        {"x": (0, 2), "w": (), "b": ()},
        atol=1e-5,
    ),
    "conv2d_transpose": Case(
        lambda x, w: F.conv2d_transpose(x, w, stride=2, padding=1, output_padding=1),
        {"x": IMAGE["x"], "w": normal(4, 3, 3, 3)},
        {**IMAGE_AXES, "w": ()},
        atol=1e-5,
    ),
    "max_pool2d": Case(lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), IMAGE, IMAGE_AXES),
    "avg_pool2d": Case(
        lambda x: (F.avg_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2, 1, 1, exclusive=False)), IMAGE, IMAGE_AXES
    ),
    "max_pool1d": Case(lambda x: F.max_pool1d(x, 2), {"x": normal(2, 4, 9)}),
    "adaptive pooling to one": Case(
        lambda x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)), IMAGE, IMAGE_AXES
    ),
    "adaptive pooling": Case(lambda x: F.adaptive_avg_pool2d(x, (3, 4)), IMAGE),
    "interpolate, nearest": Case(_interpolate(scale_factor=2), IMAGE, IMAGE_AXES),
    "interpolate, bilinear": Case(
        _interpolate(scale_factor=2, mode="bilinear"), IMAGE, IMAGE_AXES, atol=1e-5
    ),
    "interpolate, corners": Case(
        _interpolate(size=[13, 17], mode="bilinear", align_corners=True), IMAGE, IMAGE_AXES, atol=1e-5
    ),
    "interpolate, old alignment": Case(
        _interpolate(scale_factor=2, mode="bilinear", align_mode=1), IMAGE, IMAGE_AXES, atol=1e-5
    ),
    "interpolate, bicubic": Case(_interpolate(size=[13, 17], mode="bicubic"), IMAGE, IMAGE_AXES, atol=1e-5),
    # Norms.
    "layer_norm": Case(
        lambda x, w, b: (F.layer_norm(x, 4, w, b, 1e-3), F.layer_norm(x, [3, 4])),
        {**X, "w": normal(4), "b": normal(4)},
        {"x": (0,), "w": (), "b": ()},
        atol=1e-5,
    ),
    "batch_norm": Case(
        lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, epsilon=0.3),
        {"x": IMAGE["x"], "m": normal(4), "v": np.abs(normal(4)), "w": normal(4), "b": normal(4)},
        {**IMAGE_AXES, "m": (), "v": (), "w": (), "b": ()},
        atol=1e-5,
    ),
    "instance_norm": Case(
        lambda x, w, b: F.instance_norm(x, weight=w, bias=b, eps=0.2),
        {"x": IMAGE["x"], "w": normal(4), "b": normal(4)},
        {**IMAGE_AXES, "w": (), "b": ()},
        atol=1e-5,
    ),
    "group_norm": Case(
        lambda x, w, b: F.group_norm(x, 2, 0.3, w, b),
        {"x": IMAGE["x"], "w": normal(4), "b": normal(4)},
        {**IMAGE_AXES, "w": (), "b": ()},
        atol=1e-5,
    ),
}
