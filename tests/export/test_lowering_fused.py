"""This package's compiled operators as ONNX, against the operators themselves: every option, several sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.errors import UnsupportedError
from paddle_infra.export.spec import TensorSpec, output_specs
from tests.export.lowering_cases import normal
from tests.export.test_lowering import WRITABLE, assert_equal, outputs_of, session

pytest.importorskip("onnxruntime")
OPSETS = sorted({13, 17, 20, WRITABLE[-1]})
FORMS = [("decomposed", opset) for opset in OPSETS] + [("contrib", 17)]
FORMS += [("standard", 23)] if 23 in WRITABLE else []


class Attention(nn.Layer):
    """Attention with options, the keys' lengths being an input."""

    def __init__(self, function: Callable[..., Tensor] = ops.attention, **options: Any) -> None:
        super().__init__()
        self.function, self.options = function, options
        if "alibi_slopes" in options:  # a program knows tensors as parameters and buffers
            self.register_buffer("slopes", paddle.to_tensor(options.pop("alibi_slopes")))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: Tensor | None = None,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        return self.function(
            query,
            key,
            value,
            kv_lengths=lengths,
            bias=bias if mask is None else mask != 0,
            alibi_slopes=getattr(self, "slopes", None),
            **self.options,
        )


def tokens(
    queries: int, keys: int, batch: int = 2, heads: int = 4, kv_heads: int = 4
) -> dict[str, np.ndarray]:
    return {
        "query": normal(batch, queries, heads, 8),
        "key": normal(batch, keys, kv_heads, 8),
        "value": normal(batch, keys, kv_heads, 8),
    }


def masks(batch: int, queries: int, keys: int) -> np.ndarray:
    """A mask of every query and key, in which the last row of the batch hides everything from its first query."""
    mask = np.random.default_rng(1).integers(0, 2, (batch, 1, queries, keys))
    mask[-1, 0, 0] = 0
    return mask


SLOPES = [0.5, 0.25, 0.125, 0.0625]
CASES: dict[str, tuple[dict[str, Any], Callable[[int, int], dict[str, np.ndarray]]]] = {
    "plain": ({}, tokens),
    "causal": ({"causal": True}, tokens),
    "window": ({"window": (2, 1)}, tokens),
    "softcap": ({"softcap": 2.0}, tokens),
    "scale": ({"scale": 0.3}, tokens),
    "slopes": ({"alibi_slopes": SLOPES, "causal": True}, tokens),
    "grouped heads": ({"causal": True}, lambda s, k: tokens(s, k, kv_heads=2)),
    "one head of keys": ({}, lambda s, k: tokens(s, k, kv_heads=1)),
    "lengths": ({}, lambda s, k: tokens(s, k) | {"lengths": np.array([0, k - 1], "int32")}),
    "bias": ({}, lambda s, k: tokens(s, k) | {"bias": normal(2, 4, s, k)}),
    "bias of every head": ({}, lambda s, k: tokens(s, k) | {"bias": normal(1, 1, s, k)}),
    "hiding bias": (
        {},
        lambda s, k: tokens(s, k) | {"bias": np.where(masks(2, s, k), 0, -np.inf).astype("float32")},
    ),
    "mask": ({}, lambda s, k: tokens(s, k) | {"mask": masks(2, s, k)}),
    "mask of keys": ({}, lambda s, k: tokens(s, k) | {"mask": masks(2, 1, k)}),
    "everything": (
        {"causal": True, "window": (3, 0), "softcap": 3.0, "alibi_slopes": SLOPES, "scale": 0.4},
        lambda s, k: (
            tokens(s, k, kv_heads=2) | {"lengths": np.array([1, k], "int32"), "bias": normal(2, 1, s, k)}
        ),
    ),
}


def specs(inputs: dict[str, np.ndarray], dynamic: dict[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name,
            str(array.dtype),
            tuple(
                f"{name}{axis}" if axis in dynamic[name] else size for axis, size in enumerate(array.shape)
            ),
        )
        for name, array in inputs.items()
    )


AXES = {"query": (0, 1), "key": (0, 1), "value": (0, 1), "lengths": (0,), "bias": (), "mask": ()}


def check(
    model: nn.Layer,
    folder: Path,
    cases: list[dict[str, np.ndarray]],
    axes: dict[str, tuple[int, ...]],
    atol: float = 2e-6,
    **options: Any,
) -> None:
    """Convert once, run every case."""
    model.eval()
    expected = [outputs_of(model, case) for case in cases]
    inputs = specs(cases[0], axes)
    sizes: list[dict[str, int]] = [{} for _ in cases]
    outputs = output_specs(list(expected[0]), expected, sizes)
    run = session(model, folder, inputs, outputs, **options)
    for case, wanted in zip(cases, expected, strict=True):
        assert_equal(run.run(list(wanted), case), wanted, atol)


@pytest.mark.parametrize(("form", "opset"), FORMS)
@pytest.mark.parametrize("name", CASES)
def test_attention(name: str, form: str, opset: int, tmp_path: Path) -> None:
    options, make = CASES[name]
    cases = [make(5, 7), make(3, 9), make(1, 1)]
    axes = {
        key: (2, 3) if key in ("bias", "mask") and case_axes == () else case_axes
        for key, case_axes in AXES.items()
    }
    if name == "mask of keys":
        axes["mask"] = (3,)
    check(Attention(**options), tmp_path, cases, axes, opset=opset, attention=form)


@pytest.mark.parametrize(("form", "opset"), [("decomposed", 17), ("contrib", 17)])
@pytest.mark.parametrize("options", [{}, {"window": (3, 0)}, {"softcap": 2.0, "alibi_slopes": SLOPES}])
def test_attention_to_a_cache(options: dict[str, Any], form: str, opset: int, tmp_path: Path) -> None:
    cases = [
        tokens(queries, keys, kv_heads=2) | {"lengths": np.array([keys, max(1, keys - 3)], "int32")}
        for queries, keys in ((1, 9), (2, 6))
    ]
    model = Attention(ops.attention_decode, **options)
    check(model, tmp_path, cases, AXES, opset=opset, attention=form)


class Layers(nn.Layer):
    """One of this package's operators with weights of its own."""

    def __init__(self, function: Callable[..., Any], **weights: np.ndarray) -> None:
        super().__init__()
        self.function = function
        for name, array in weights.items():
            self.add_parameter(name, self.create_parameter(list(array.shape)))
            getattr(self, name).set_value(array)
        self.names = list(weights)

    def forward(self, x: Tensor, y: Tensor | None = None, z: Tensor | None = None) -> Any:
        weights = {name: getattr(self, name) for name in self.names}
        return self.function(*[t for t in (x, y, z) if t is not None], **weights)


FLOATS = [{"x": normal(2, 3, 8)}, {"x": normal(1, 5, 8)}]
PAIRS = [{"x": normal(2, 3, 8), "y": normal(2, 3, 8)}, {"x": normal(1, 5, 8), "y": normal(1, 5, 8)}]
TWO = {"x": (0, 1), "y": (0, 1), "z": (0, 1)}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu", "silu", "swiglu"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear(activation: str, has_bias: bool, opset: int, tmp_path: Path) -> None:
    weights = {"weight": normal(8, 6)} | ({"bias": normal(6)} if has_bias else {})
    model = Layers(lambda x, **w: ops.linear(x, activation=activation, **w), **weights)  # type: ignore[arg-type]
    check(model, tmp_path, FLOATS, TWO, opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("is_rms", [False, True])
def test_add_norm(is_rms: bool, opset: int, tmp_path: Path) -> None:
    def both(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Any:
        norm = "rms" if is_rms else "layer"
        first = ops.add_norm(x, y, weight, bias, norm=norm, epsilon=1e-3)
        second, total = ops.add_norm_with_sum(first, x, weight, norm=norm)
        return second, total

    check(Layers(both, weight=normal(8), bias=normal(8)), tmp_path, PAIRS, TWO, atol=1e-5, opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("has_ids", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_embedding_norm(has_ids: bool, padding_idx: int | None, opset: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def embed(x: Tensor, y: Tensor | None = None, z: Tensor | None = None, **weights: Tensor) -> Tensor:
        return ops.embedding_norm(
            x,
            weights["word"],
            weights["position"],
            weights["token_type"],
            weights["weight"],
            weights["bias"],
            position_ids=y,
            token_type_ids=z,
            padding_idx=padding_idx,
        )

    weights = {"word": normal(9, 8), "position": normal(12, 8), "token_type": normal(2, 8)}
    model = Layers(embed, **weights, weight=normal(8), bias=normal(8))
    cases = []
    for shape in ((2, 3), (1, 7)):
        case = {"x": generator.integers(9, size=shape)}
        if has_ids:
            case |= {"y": generator.integers(12, size=shape), "z": generator.integers(2, size=shape)}
        cases.append(case)
    check(model, tmp_path, cases, TWO, atol=1e-5, opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("layout", ["vd", "dv"])
def test_linear_topk(layout: str, opset: int, tmp_path: Path) -> None:
    weight = normal(11, 8) if layout == "vd" else normal(8, 11)

    def best(x: Tensor, **w: Tensor) -> Any:
        found = ops.linear_topk(x, w["weight"], 3, bias=w["bias"], weight_layout=layout)
        return (*found, *ops.linear_topk_log_prob(x, w["weight"], 2, bias=w["bias"], weight_layout=layout))

    check(Layers(best, weight=weight, bias=normal(11)), tmp_path, FLOATS, TWO, atol=1e-5, opset=opset)


class Quantized(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        weight, scale = ops.quantize_weight(paddle.to_tensor(normal(8, 6)))
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear_int8(x, self.weight, self.scale, activation="gelu")


@pytest.mark.parametrize("opset", OPSETS)
def test_linear_int8(opset: int, tmp_path: Path) -> None:
    check(Quantized(), tmp_path, FLOATS, TWO, atol=1e-4, opset=opset)


class Packed(nn.Layer):
    def forward(self, query: Tensor, starts: Tensor) -> Tensor:
        return ops.attention_varlen(query, query, query, starts, starts)


def test_packed_attention_is_refused_by_name(tmp_path: Path) -> None:
    inputs = {"query": normal(6, 4, 8), "starts": np.array([0, 2, 6], "int32")}
    with pytest.raises(
        UnsupportedError, match=r"custom_op.paddle_infra_attention.*opset 17 for packed sequences"
    ):
        check(Packed(), tmp_path, [inputs], {"query": (0,), "starts": ()}, opset=17)
