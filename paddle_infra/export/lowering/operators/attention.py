"""Attention: as plain operators, as ONNX's ``Attention``, or as ONNX Runtime's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.program import Operator, Value
from paddle_infra.export.lowering.registry import lowers

_PREFIX = "custom_op.paddle_infra_"
# Added to hidden scores; finite, so that a row of hidden scores gives no NaN.
_HIDDEN = -1e30


@dataclass(frozen=True)
class _Call:
    """One call of an attention operator; tensors are values of the program, None if absent."""

    query: Value
    key: Value
    value: Value
    bias: Value | None
    q_lengths: Value | None
    kv_lengths: Value | None
    slopes: Value | None
    window: tuple[int, int]
    scale: float
    softcap: float
    aligns_to_lengths: bool

    @property
    def heads(self) -> tuple[int, int]:
        """Heads of the query, and of the key."""
        return int(self.query.shape[2] or 0), int(self.key.shape[2] or 0)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return int(self.query.shape[3] or 0)


@lowers(_PREFIX + "attention", _PREFIX + "attention_bias")
def attention(graph: Graph, operator: Operator) -> list[str | None]:
    """Attention of a batch. Nothing reads the logarithms that the operator also gives."""
    query, key, value, bias, cu_q, _, q_lengths, kv_lengths, slopes = operator.inputs[:9]
    if cu_q is not None:
        graph.refuse(operator, "packed sequences: export a model that takes padded ones")
    return [_lower(graph, operator, query, key, value, bias, q_lengths, kv_lengths, slopes, False)]


@lowers(_PREFIX + "attention_decode")
def attention_decode(graph: Graph, operator: Operator) -> list[str | None]:
    """Attention to a cache: the last query is level with the last key that exists."""
    query, key, value, bias, kv_lengths, slopes = operator.inputs[:6]
    return [_lower(graph, operator, query, key, value, bias, None, kv_lengths, slopes, True)]


def _lower(graph: Graph, operator: Operator, *tensors: Any) -> str:
    query, key, value, bias, q_lengths, kv_lengths, slopes, aligns = tensors
    attributes = operator.attributes
    call = _Call(
        query,
        key,
        value,
        bias,
        q_lengths,
        kv_lengths,
        slopes,
        (int(attributes["window_left"]), int(attributes["window_right"])),
        float(attributes["scale"]),
        float(attributes["softcap"]),
        bool(aligns),
    )
    if not (all(call.heads) and call.head_dim):
        graph.refuse(operator, "numbers of heads that are not known at export")
    masks = _Masks(graph, call)
    if graph.attention == "standard":
        return _standard(graph, call, masks)
    if graph.attention == "contrib" and call.softcap == 0 and call.q_lengths is None:
        return _contrib(graph, call, masks)
    return _decomposed(graph, call, masks)


class _Masks:
    """What is added to the scores, ``[B, H, Sq, Sk]`` or what broadcasts to it, and which queries see anything."""

    def __init__(self, graph: Graph, call: _Call) -> None:
        self._graph, self._call = graph, call
        self.visible = self._visible()
        self.added = self._added()

    @property
    def may_hide_all(self) -> bool:
        """Whether a query may see no key."""
        call = self._call
        return max(call.window) >= 0 or any(
            x is not None for x in (call.bias, call.kv_lengths, call.q_lengths)
        )

    def bias(self) -> str | None:
        """Return everything as one float tensor to add, or None."""
        if self.visible is None:
            return self.added
        hidden = self._graph.add(
            "Where",
            [
                self.visible,
                self._graph.like(self._call.query, 0.0),
                self._graph.like(self._call.query, _HIDDEN),
            ],
        )
        return str(hidden if self.added is None else self._graph.add("Add", [hidden, self.added]))

    def seen(self) -> str | None:
        """Return 1 for queries that see a key, else 0: ``[…, Sq or 1, 1]``; None if all do."""
        bias = self.bias() if self.may_hide_all else None
        if bias is None:
            return None
        graph = self._graph
        largest = graph.reduce("ReduceMax", bias, [3], True)
        is_seen = graph.add("Greater", [largest, graph.like(self._call.query, _HIDDEN / 10)])
        return graph.cast(is_seen, self._call.query.dtype)

    def _sizes(self) -> tuple[str, str]:
        """Return the numbers of queries and keys, int64 ``[1]``."""
        call, graph = self._call, self._graph
        return graph.size(graph.name(call.query), 1), graph.size(graph.name(call.key), 1)

    def _count(self, size: str) -> str:
        """Return 0, 1, 2, … below a size."""
        graph = self._graph
        zero, one = (graph.constant(np.asarray(n, np.int64)) for n in (0, 1))
        return str(graph.add("Range", [zero, graph.squeeze(size, [0]), one]))

    def _behind(self) -> str:
        """Return how far each key is before each query, ``[1, 1, Sq, Sk]`` or per batch entry ``[B, 1, Sq, Sk]``."""
        graph, call = self._graph, self._call
        queries, keys = self._sizes()
        rows = graph.unsqueeze(self._count(queries), [0, 1, 3])
        last_key: str = keys
        if call.aligns_to_lengths and call.kv_lengths is not None:
            last_key = self._lengths(call.kv_lengths)
        offset = graph.add("Sub", [last_key, queries])
        return str(graph.add("Sub", [graph.add("Add", [rows, offset]), self._count(keys)]))

    def _lengths(self, value: Value) -> str:
        graph = self._graph
        return graph.unsqueeze(graph.cast(graph.name(value), np.int64), [1, 2, 3])

    def _visible(self) -> str | None:
        graph, call = self._graph, self._call
        found: list[str] = []
        if call.kv_lengths is not None:
            keys = self._count(self._sizes()[1])
            found.append(graph.add("Less", [keys, self._lengths(call.kv_lengths)]))
        if call.q_lengths is not None:
            queries = graph.unsqueeze(self._count(self._sizes()[0]), [1])
            found.append(graph.add("Less", [queries, self._lengths(call.q_lengths)]))
        left, right = call.window
        if left >= 0 or right >= 0:
            behind = self._behind()
            if left >= 0:
                found.append(graph.add("LessOrEqual", [behind, graph.constant(np.asarray(left, np.int64))]))
            if right >= 0:
                found.append(
                    graph.add("GreaterOrEqual", [behind, graph.constant(np.asarray(-right, np.int64))])
                )
        if call.bias is not None and call.bias.dtype == np.bool_:
            found.append(graph.name(call.bias))
        if not found:
            return None
        together = found[0]
        for condition in found[1:]:
            together = graph.add("And", [together, condition])
        return together

    def _added(self) -> str | None:
        graph, call = self._graph, self._call
        found: list[str] = []
        if call.slopes is not None:
            distance = graph.cast(str(graph.add("Abs", [self._behind()])), call.query.dtype)
            slopes = graph.unsqueeze(graph.name(call.slopes), [call.slopes.rank, call.slopes.rank + 1])
            found.append(graph.add("Neg", [graph.add("Mul", [slopes, distance])]))
        if call.bias is not None and call.bias.dtype != np.bool_:
            # A bias of -inf hides as well; of a whole row it would make NaN.
            lowest = graph.like(call.query, _HIDDEN)
            found.append(graph.add("Max", [graph.name(call.bias), lowest]))
        if not found:
            return None
        return found[0] if len(found) == 1 else str(graph.add("Add", found))


def _split_heads(graph: Graph, call: _Call, *, transposes_key: bool) -> list[str]:
    """Return query, key and value as ``[B, H, S, D]``, with as many heads of keys as of queries."""
    heads, kv_heads = call.heads
    names = []
    for value, order in (
        (call.query, [0, 2, 1, 3]),
        (call.key, [0, 2, 3, 1] if transposes_key else [0, 2, 1, 3]),
        (call.value, [0, 2, 1, 3]),
    ):
        name = graph.name(value)
        if value is not call.query and heads != kv_heads:
            name = _repeat_heads(graph, name, heads, kv_heads, int(value.shape[3] or 0))
        names.append(str(graph.add("Transpose", [name], perm=order)))
    return names


def _repeat_heads(graph: Graph, name: str, heads: int, kv_heads: int, head_dim: int) -> str:
    """Repeat each head of ``[B, S, H, D]`` for the queries' heads that share it."""
    repeated = graph.add(
        "Expand", [graph.unsqueeze(name, [3]), graph.integers([1, 1, 1, heads // kv_heads, 1])]
    )
    return str(graph.add("Reshape", [repeated, graph.integers([0, 0, heads, head_dim])]))


def _decomposed(graph: Graph, call: _Call, masks: _Masks) -> str:
    query, key, value = _split_heads(graph, call, transposes_key=True)
    scores = graph.add("MatMul", [query, key])
    scores = graph.add("Mul", [scores, graph.like(call.query, call.scale)])
    if call.softcap > 0:
        cap = graph.like(call.query, call.softcap)
        scores = graph.add("Mul", [graph.add("Tanh", [graph.add("Div", [scores, cap])]), cap])
    bias = masks.bias()
    if bias is not None:
        scores = graph.add("Add", [scores, bias])
    result = graph.add("MatMul", [graph.add("Softmax", [scores], axis=-1), value])
    seen = masks.seen()
    if seen is not None:
        result = graph.add("Mul", [result, seen])
    return str(graph.add("Transpose", [result], perm=[0, 2, 1, 3]))


def _standard(graph: Graph, call: _Call, masks: _Masks) -> str:
    """ONNX's ``Attention`` (opset 23). Causality is in the mask: ONNX aligns it to the top left."""
    query, key, value = (
        str(graph.add("Transpose", [graph.name(item)], perm=[0, 2, 1, 3]))
        for item in (call.query, call.key, call.value)
    )
    bias = masks.bias()
    result = graph.add(
        "Attention",
        [query, key, value] + ([] if bias is None else [_whole_bias(graph, call, bias)]),
        scale=call.scale,
        softcap=call.softcap or None,
    )
    seen = masks.seen()
    if seen is not None:
        result = graph.add("Mul", [result, seen])
    return str(graph.add("Transpose", [result], perm=[0, 2, 1, 3]))


def _contrib(graph: Graph, call: _Call, masks: _Masks) -> str:
    """ONNX Runtime's ``MultiHeadAttention``, which never stores the scores on its fast path."""
    heads, kv_heads = call.heads
    flat = []
    for value in (call.query, call.key, call.value):
        name = graph.name(value)
        if value is not call.query and heads != kv_heads:
            name = _repeat_heads(graph, name, heads, kv_heads, int(value.shape[3] or 0))
        flat.append(str(graph.add("Reshape", [name, graph.integers([0, 0, -1])])))
    bias = masks.bias()
    inputs = flat if bias is None else [*flat, "", "", _whole_bias(graph, call, bias)]
    result = graph.add(
        "MultiHeadAttention", inputs, domain="com.microsoft", num_heads=heads, scale=call.scale
    )
    width = int(call.value.shape[3] or 0)
    result = graph.add("Reshape", [result, graph.integers([0, 0, heads, width])])
    seen = masks.seen()
    if seen is not None:  # [B, H, Sq, 1] to [B, Sq, H, 1]
        whole = graph.add("Add", [seen, graph.constant(np.zeros([1, 1, 1, 1], call.query.dtype))])
        result = graph.add("Mul", [result, graph.add("Transpose", [whole], perm=[0, 2, 1, 3])])
    return str(result)


def _whole_bias(graph: Graph, call: _Call, bias: str) -> str:
    """Repeat a bias along queries and keys: ONNX Runtime 1.31 broadcasts it over batch and heads only."""
    queries, keys = graph.size(graph.name(call.query), 1), graph.size(graph.name(call.key), 1)
    target = graph.add("Concat", [graph.integers([1, 1]), queries, keys], axis=0)
    return str(graph.add("Expand", [bias, target]))


@lowers("pd_op.flash_attn", "pd_op.memory_efficient_attention")
def paddle_attention(graph: Graph, operator: Operator) -> list[str | None]:
    """Paddle's own fused attention, ``[B, S, H, D]``, with an optional additive mask."""
    query, key, value = (operator.input(index) for index in range(3))
    mask = operator.inputs[4] if operator.name == "pd_op.flash_attn" else operator.inputs[3]
    causal = bool(operator.attributes.get("causal", False))
    scale = operator.attributes.get("scale", -1.0)
    width = int(query.shape[3] or 0)
    call = _Call(
        query,
        key,
        value,
        mask,
        None,
        None,
        None,
        (-1, 0 if causal else -1),
        float(scale) if float(scale) > 0 else width**-0.5,
        0.0,
        False,
    )
    return [_decomposed(graph, call, _Masks(graph, call))]
