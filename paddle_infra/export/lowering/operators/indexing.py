"""Operators that look up elements by number."""

from __future__ import annotations

import numpy as np

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.operators.shape import integer_vector
from paddle_infra.export.lowering.program import Operator
from paddle_infra.export.lowering.registry import lowers

_END = int(np.iinfo(np.int64).max)


@lowers("pd_op.embedding")
def embedding(graph: Graph, operator: Operator) -> str:
    """Rows of a table; the padding row is zeros in the table that is written."""
    ids, table = graph.name(operator.input(0)), operator.input(1)
    padding = int(operator.attributes["padding_idx"])
    name = graph.name(table)
    known = graph.known(table)
    if padding >= 0 and known is not None and known[padding].any():
        zeroed = known.copy()
        zeroed[padding] = 0
        name = graph.constant(zeroed)
    return str(graph.add("Gather", [name, ids], axis=0))


@lowers("pd_op.gather")
def gather(graph: Graph, operator: Operator) -> str:
    """Slices along an axis by number."""
    value, index = operator.input(0), operator.input(1)
    axis = int(graph.expect_known(operator, operator.input(2), "the axis").reshape([]))
    name = graph.name(index)
    if index.rank == 2:  # [n, 1] counts as [n]
        name = graph.squeeze(name, [1])
    return str(graph.add("Gather", [graph.name(value), name], axis=axis % value.rank))


@lowers("pd_op.index_select")
def index_select(graph: Graph, operator: Operator) -> str:
    """Slices along an axis by number."""
    names = [graph.name(operator.input(0)), graph.name(operator.input(1))]
    return str(graph.add("Gather", names, axis=int(operator.attributes["axis"])))


@lowers("pd_op.gather_nd")
def gather_nd(graph: Graph, operator: Operator) -> str:
    """Elements or slices by several numbers each."""
    index = operator.input(1)
    name = graph.name(index)
    return str(
        graph.add(
            "GatherND",
            [graph.name(operator.input(0)), name if index.dtype == np.int64 else graph.cast(name, np.int64)],
        )
    )


@lowers("pd_op.take_along_axis")
def take_along_axis(graph: Graph, operator: Operator) -> str:
    """One element per index, along an axis."""
    names = [graph.name(operator.input(0)), graph.name(operator.input(1))]
    return str(graph.add("GatherElements", names, axis=int(operator.attributes["axis"])))


@lowers("pd_op.slice")
def slice_axes(graph: Graph, operator: Operator) -> str:
    """Ranges along axes, some of which go away."""
    value = operator.input(0)
    axes = [int(axis) for axis in operator.attributes["axes"]]
    starts, ends = (integer_vector(graph, operator.input(index)) for index in (1, 2))
    name = graph.add("Slice", [graph.name(value), starts, ends, graph.integers(axes)])
    gone = [int(axis) for axis in operator.attributes["decrease_axis"]]
    if not gone:
        return str(name)
    return graph.squeeze(str(name), gone)


@lowers("pd_op.strided_slice")
def strided_slice(graph: Graph, operator: Operator) -> str:
    """Ranges along axes in steps."""
    axes = graph.integers([int(axis) for axis in operator.attributes["axes"]])
    starts, ends, steps = (integer_vector(graph, operator.input(index)) for index in (1, 2, 3))
    return str(graph.add("Slice", [graph.name(operator.input(0)), starts, ends, axes, steps]))


@lowers("pd_op.one_hot")
def one_hot(graph: Graph, operator: Operator) -> str:
    """A vector with a single 1 for each number."""
    depth = graph.expect_known(operator, operator.input(1), "the number of classes")
    values = graph.constant(np.asarray([0, 1], operator.output().dtype))
    ids = graph.cast(graph.name(operator.input(0)), np.int64)
    return str(
        graph.add("OneHot", [ids, graph.constant(np.asarray(int(depth.reshape([])), np.int64)), values])
    )


@lowers("pd_op.nonzero")
def nonzero(graph: Graph, operator: Operator) -> str:
    """Where elements are not 0: a row of indices for each."""
    return str(graph.add("Transpose", [graph.add("NonZero", [graph.name(operator.input(0))])], perm=[1, 0]))


@lowers("pd_op.scatter_nd_add")
def scatter_nd_add(graph: Graph, operator: Operator) -> str:
    """Numbers added at places."""
    if graph.opset < 16:
        graph.refuse(operator, "sums at repeated places before opset 16")
    names = [graph.name(operator.input(index)) for index in range(3)]
    return str(graph.add("ScatterND", names, reduction="add"))


@lowers("pd_op.put_along_axis")
def put_along_axis(graph: Graph, operator: Operator) -> str:
    """Numbers written or added along an axis."""
    how = {"assign": "none", "add": "add", "mul": "mul", "multiply": "mul"}.get(operator.attributes["reduce"])
    if how is None or (how != "none" and graph.opset < 16):
        graph.refuse(operator, f"reduce={operator.attributes['reduce']!r} at opset {graph.opset}")
    names = [graph.name(operator.input(index)) for index in range(3)]
    return str(
        graph.add(
            "ScatterElements",
            names,
            axis=int(operator.attributes["axis"]),
            reduction=how if graph.opset >= 16 else None,
        )
    )
