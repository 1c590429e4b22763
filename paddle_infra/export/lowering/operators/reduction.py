"""Sums, means, extremes and sorting along axes."""

from __future__ import annotations

import numpy as np

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.program import Operator, Value
from paddle_infra.export.lowering.registry import lowers

_KINDS = {
    "sum": "ReduceSum",
    "mean": "ReduceMean",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "amax": "ReduceMax",
    "amin": "ReduceMin",
    "prod": "ReduceProd",
}


def axes_of(graph: Graph, operator: Operator, value: Value) -> list[int]:
    """Return the axes of a reduction, which are an attribute or a constant input; [] is all."""
    found = operator.attributes.get("axis", operator.attributes.get("axes"))
    if found is None:
        found = graph.expect_known(operator, operator.input(1), "axes").reshape(-1)
    if operator.attributes.get("reduce_all"):
        return []
    return [int(axis) % value.rank for axis in (found if np.ndim(found) else [found])]


@lowers(*(f"pd_op.{name}" for name in _KINDS))
def reduction(graph: Graph, operator: Operator) -> str:
    """One ONNX reduction; a sum of bool or int32 is int64, as in Paddle."""
    value, output = operator.input(0), operator.output()
    name = graph.name(value)
    if value.dtype != output.dtype:
        name = graph.cast(name, output.dtype)
    kind = _KINDS[operator.name.removeprefix("pd_op.")]
    return graph.reduce(kind, name, axes_of(graph, operator, value), bool(operator.attributes["keepdim"]))


@lowers("pd_op.any", "pd_op.all")
def boolean(graph: Graph, operator: Operator) -> str:
    """Whether one is, or all are, true."""
    value = operator.input(0)
    kind = "ReduceMax" if operator.name == "pd_op.any" else "ReduceMin"
    number = graph.cast(graph.name(value), np.int32)
    axes = axes_of(graph, operator, value)
    return graph.cast(graph.reduce(kind, number, axes, bool(operator.attributes["keepdim"])), np.bool_)


@lowers("pd_op.logsumexp")
def logsumexp(graph: Graph, operator: Operator) -> str:
    """The logarithm of a sum of exponentials, with the largest taken out first."""
    value = operator.input(0)
    axes, keeps = axes_of(graph, operator, value), bool(operator.attributes["keepdim"])
    return graph.reduce("ReduceLogSumExp", graph.name(value), axes, keeps)


@lowers("pd_op.p_norm")
def p_norm(graph: Graph, operator: Operator) -> str:
    """A norm along one axis: orders 1 and 2."""
    value, order = operator.input(0), float(operator.attributes["porder"])
    if order not in (1.0, 2.0):
        graph.refuse(operator, f"a norm of order {order}")
    axes = [] if operator.attributes["asvector"] else [int(operator.attributes["axis"]) % value.rank]
    kind = "ReduceL1" if order == 1.0 else "ReduceL2"
    return graph.reduce(kind, graph.name(value), axes, bool(operator.attributes["keepdim"]))


@lowers("pd_op.frobenius_norm")
def frobenius_norm(graph: Graph, operator: Operator) -> str:
    """The root of a sum of squares."""
    value = operator.input(0)
    axes = axes_of(graph, operator, value)
    keeps = operator.attributes.get("keep_dim", operator.attributes.get("keepdim"))
    return graph.reduce("ReduceL2", graph.name(value), axes, bool(keeps))


@lowers("pd_op.argmax", "pd_op.argmin")
def arg_extreme(graph: Graph, operator: Operator) -> str:
    """The first index of the largest or smallest element."""
    value, output = operator.input(0), operator.output()
    kind = "ArgMax" if operator.name == "pd_op.argmax" else "ArgMin"
    name, keeps = graph.name(value), int(bool(operator.attributes["keepdims"]))
    if operator.attributes["flatten"]:
        name, axis = str(graph.add("Reshape", [name, graph.integers([-1])])), 0
        keeps = 0
    else:
        axis = int(graph.expect_known(operator, operator.input(1), "the axis").reshape([]))
    found = graph.add(kind, [name], axis=axis, keepdims=keeps)
    return str(found) if output.dtype == np.int64 else graph.cast(found, output.dtype)


@lowers("pd_op.topk")
def topk(graph: Graph, operator: Operator) -> list[str]:
    """The k largest or smallest along an axis, in order."""
    value = operator.input(0)
    count = operator.input(1)
    known = graph.known(count)
    if known is None:
        name = graph.add("Reshape", [graph.cast(graph.name(count), np.int64), graph.integers([1])])
    else:
        name = graph.integers([int(known.reshape([]))])
    return list(
        graph.add(
            "TopK",
            [graph.name(value), str(name)],
            outputs=2,
            axis=int(operator.attributes["axis"]) % value.rank,
            largest=int(operator.attributes["largest"]),
            sorted=1,
        )
    )


@lowers("pd_op.argsort")
def argsort(graph: Graph, operator: Operator) -> list[str]:
    """All elements in order, and where they were."""
    value = operator.input(0)
    axis = int(operator.attributes["axis"]) % value.rank
    count = graph.size(graph.name(value), axis)
    return list(
        graph.add(
            "TopK",
            [graph.name(value), count],
            outputs=2,
            axis=axis,
            largest=int(operator.attributes["descending"]),
            sorted=1,
        )
    )


@lowers("pd_op.cumsum", "pd_op.cumsum_")
def cumsum(graph: Graph, operator: Operator) -> str:
    """Sums of all elements so far."""
    value = operator.input(0)
    name = graph.name(value)
    if operator.attributes["flatten"]:
        name, axis = str(graph.add("Reshape", [name, graph.integers([-1])])), 0
    else:
        axis = int(graph.expect_known(operator, operator.input(1), "the axis").reshape([]))
    return str(
        graph.add(
            "CumSum",
            [name, graph.constant(np.asarray(axis, np.int64))],
            exclusive=int(operator.attributes["exclusive"]),
            reverse=int(operator.attributes["reverse"]),
        )
    )


@lowers("pd_op.softmax", "pd_op.softmax_")
def softmax(graph: Graph, operator: Operator) -> str:
    """Exponentials that sum to 1."""
    axis = int(operator.attributes["axis"])
    return str(graph.add("Softmax", [graph.name(operator.input(0))], axis=axis))


@lowers("pd_op.log_softmax")
def log_softmax(graph: Graph, operator: Operator) -> str:
    """Their logarithms."""
    axis = int(operator.attributes["axis"])
    return str(graph.add("LogSoftmax", [graph.name(operator.input(0))], axis=axis))
