"""This package's compiled operators in standard ones."""

from __future__ import annotations

import numpy as np

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.operators.elementwise import gelu_of, silu_of
from paddle_infra.export.lowering.operators.normalization import layer_norm_of, rms_norm_of
from paddle_infra.export.lowering.program import Operator, Value
from paddle_infra.export.lowering.registry import lowers
from paddle_infra.ops._linear_arguments import ACTIVATIONS

_PREFIX = "custom_op.paddle_infra_"


@lowers(_PREFIX + "linear", _PREFIX + "linear_bias")
def linear(graph: Graph, operator: Operator) -> list[str | None]:
    """:math:`f(x W + b)`."""
    value = operator.input(0)
    product = graph.add("MatMul", [graph.name(value), graph.name(operator.input(1))])
    if operator.name.endswith("_bias"):
        product = graph.add("Add", [product, graph.name(operator.input(2))])
    return [activated(graph, str(product), value, ACTIVATIONS[operator.attributes["activation"]]), None]


def activated(graph: Graph, name: str, like: Value, activation: str) -> str:
    """Return an activation by the name that :func:`paddle_infra.ops.linear` gives it."""
    if activation in ("gelu", "gelu_tanh"):
        return gelu_of(graph, name, like, approximates=activation == "gelu_tanh")
    if activation == "relu":
        return str(graph.add("Relu", [name]))
    if activation == "silu":
        return silu_of(graph, name)
    if activation == "swiglu":
        gate, up = graph.halves(name, -1)
        return str(graph.add("Mul", [silu_of(graph, gate), up]))
    return name


def _normalized(
    graph: Graph, operator: Operator, name: str, like: Value, weight: Value, bias: Value | None
) -> str:
    epsilon = float(operator.attributes["epsilon"])
    shift = None if bias is None else graph.name(bias)
    if operator.attributes["is_rms"]:
        return rms_norm_of(graph, name, like, graph.name(weight), shift, epsilon)
    return layer_norm_of(graph, name, like, graph.name(weight), shift, epsilon, None)


@lowers(_PREFIX + "norm", _PREFIX + "norm_bias")
def norm(graph: Graph, operator: Operator) -> list[str | None]:
    """A norm of the last axis."""
    value = operator.input(0)
    bias = operator.input(2) if operator.name.endswith("_bias") else None
    return [_normalized(graph, operator, graph.name(value), value, operator.input(1), bias), None]


@lowers(*(f"{_PREFIX}add_norm{middle}{end}" for middle in ("", "_sum") for end in ("", "_bias")))
def add_norm(graph: Graph, operator: Operator) -> list[str | None]:
    """A norm of a sum, and the sum too."""
    value = operator.input(0)
    total = str(graph.add("Add", [graph.name(value), graph.name(operator.input(1))]))
    bias = operator.input(3) if operator.name.endswith("_bias") else None
    result = _normalized(graph, operator, total, value, operator.input(2), bias)
    return [result, total, None] if "_sum" in operator.name else [result, None]


@lowers(*(f"{_PREFIX}embedding_norm{tables}" for tables in ("", "_position", "_type", "_position_type")))
def embedding_norm(graph: Graph, operator: Operator) -> list[str | None]:
    """The sum of rows of up to three tables, and its norm."""
    ids, word = operator.input(0), operator.input(1)
    rest = list(operator.inputs[2:])
    position = rest.pop(0) if "_position" in operator.name else None
    token_type = rest.pop(0) if "_type" in operator.name else None
    weight, bias, position_ids, token_type_ids = rest[:4]
    assert weight is not None  # the operator requires it
    ids_name = graph.name(ids)
    total = graph.add("Gather", [graph.name(word), ids_name], axis=0)
    if position is not None:
        total = graph.add("Add", [total, _positions(graph, ids, ids_name, position, position_ids)])
    if token_type is not None:
        kinds = (
            graph.constant(np.zeros(1, np.int64)) if token_type_ids is None else graph.name(token_type_ids)
        )
        total = graph.add("Add", [total, graph.add("Gather", [graph.name(token_type), kinds], axis=0)])
    return [_normalized(graph, operator, str(total), operator.output(), weight, bias), None]


def _positions(graph: Graph, ids: Value, ids_name: str, table: Value, position_ids: Value | None) -> str:
    """Return the rows of the positions: those given, or 0, 1, 2, … of the last axis."""
    if position_ids is not None:
        return str(graph.add("Gather", [graph.name(table), graph.name(position_ids)], axis=0))
    length = ids.shape[-1]
    if length is not None:
        return graph.slice(graph.name(table), [0], [0], [length])
    end = graph.size(ids_name, ids.rank - 1)
    inputs = [graph.name(table), graph.integers([0]), end, graph.integers([0])]
    return str(graph.add("Slice", inputs))


@lowers(_PREFIX + "linear_topk")
def linear_topk(graph: Graph, operator: Operator) -> list[str]:
    """The k likeliest classes and their probabilities."""
    hidden, weight, bias = operator.input(0), operator.input(1), operator.inputs[2]
    attributes = operator.attributes
    matrix = graph.name(weight)
    if not attributes["weight_is_dv"]:
        known = graph.known(weight)
        matrix = (
            graph.transposed(matrix, known)
            if known is not None
            else str(graph.add("Transpose", [matrix], perm=[1, 0]))
        )
    scores = graph.add("MatMul", [graph.name(hidden), matrix])
    if bias is not None:
        scores = graph.add("Add", [scores, graph.name(bias)])
    softcap = float(attributes["softcap"])
    if softcap > 0:
        cap = graph.like(hidden, softcap)
        scores = graph.add("Mul", [graph.add("Tanh", [graph.add("Div", [scores, cap])]), cap])
    chances = graph.add("LogSoftmax" if attributes["is_log"] else "Softmax", [scores], axis=-1)
    count = graph.integers([int(attributes["k"])])
    return list(graph.add("TopK", [chances, count], outputs=2, axis=-1, largest=1, sorted=1))


@lowers(_PREFIX + "linear_int8")
def linear_int8(graph: Graph, operator: Operator) -> str:
    """Rows rounded to int8 one by one, an integer product, and back: as the compiled operator rounds."""
    value, weight, scale, bias = *(operator.input(index) for index in range(3)), operator.inputs[3]
    name = graph.name(value)
    largest = graph.reduce("ReduceMax", str(graph.add("Abs", [name])), [value.rank - 1], True)
    step = graph.add("Div", [largest, graph.like(value, 127.0)])
    safe = graph.add(
        "Where", [graph.add("Greater", [step, graph.like(value, 0.0)]), step, graph.like(value, 1.0)]
    )
    rounded = graph.cast(str(graph.add("Round", [graph.add("Div", [name, safe])])), np.int8)
    product = graph.cast(str(graph.add("MatMulInteger", [rounded, graph.name(weight)])), np.float32)
    result = graph.add("Mul", [graph.add("Mul", [product, safe]), graph.name(scale)])
    if bias is not None:
        result = graph.add("Add", [result, graph.name(bias)])
    return activated(graph, str(result), value, ACTIVATIONS[operator.attributes["activation"]])
