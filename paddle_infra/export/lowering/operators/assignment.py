"""Operators that write into a copy of a tensor."""

from __future__ import annotations

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.program import Operator
from paddle_infra.export.lowering.registry import lowers

_ADDING_OPSET = 16


@lowers("pd_op.index_put", "pd_op.index_put_")
def index_put(graph: Graph, operator: Operator) -> str:
    """``x[i, j, …] = value`` with tensors of int64, broadcast, for the first axes; or ``+=``.

    Masks are no places: the checker refuses their type.
    """
    x, value = operator.input(0), operator.input(2)
    indices = list(graph.names(operator.input(1)))
    adds = bool(operator.attributes["accumulate"])
    if adds and graph.opset < _ADDING_OPSET:
        graph.refuse(operator, f"adding at indices, which needs opset {_ADDING_OPSET}")
    total = indices[0]
    for index in indices[1:]:
        total = str(graph.add("Add", [total, index]))
    places = graph.shape(total)
    spread = [graph.unsqueeze(str(graph.add("Expand", [index, places])), [-1]) for index in indices]
    stacked = graph.add("Concat", spread, axis=-1) if len(spread) > 1 else spread[0]
    name, rest = graph.name(x), x.rank - len(indices)
    shape = places
    if rest:
        inner = graph.slice(graph.shape(name), [0], [len(indices)], [x.rank])
        shape = str(graph.add("Concat", [places, inner], axis=0))
    updates = graph.add("Expand", [graph.name(value), shape])
    return str(graph.add("ScatterND", [name, stacked, updates], reduction="add" if adds else None))
