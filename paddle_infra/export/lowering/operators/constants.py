"""Constants, and tensors filled with one number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.program import Operator
from paddle_infra.export.lowering.registry import lowers


@lowers("pd_op.full")
def full(graph: Graph, operator: Operator) -> None:
    """A constant tensor of one number."""
    output = operator.output()
    graph.make_known(
        output, np.full(operator.attributes["shape"], operator.attributes["value"], output.dtype)
    )


@lowers("pd_op.full_int_array")
def full_int_array(graph: Graph, operator: Operator) -> None:
    """A constant vector of integers."""
    output = operator.output()
    graph.make_known(output, np.asarray(operator.attributes["value"], output.dtype))


@lowers("pd_op.assign_value", "pd_op.assign_value_")
def assign_value(graph: Graph, operator: Operator) -> None:
    """A constant tensor."""
    output = operator.output()
    values = np.asarray(operator.attributes["values"], output.dtype)
    graph.make_known(output, values.reshape(operator.attributes["shape"]))


@lowers("pd_op.full_with_tensor")
def full_with_tensor(graph: Graph, operator: Operator) -> str:
    """A tensor of one number whose shape is computed."""
    number = graph.expect_known(operator, operator.input(0), "the number to fill with")
    shape = graph.cast(graph.name(operator.input(1)), np.int64)
    return str(graph.add("Expand", [graph.constant(number.reshape([1]), operator.output().dtype), shape]))


@lowers("pd_op.full_like")
def full_like(graph: Graph, operator: Operator) -> str:
    """A tensor of one number, of another one's shape."""
    number = graph.expect_known(operator, operator.input(1), "the number to fill with")
    shape = graph.shape(graph.name(operator.input(0)))
    return str(graph.add("Expand", [graph.constant(number.reshape([1]), operator.output().dtype), shape]))


@lowers("pd_op.full_batch_size_like")
def full_batch_size_like(graph: Graph, operator: Operator) -> str:
    """A tensor of one number with one size taken from another tensor."""
    attributes = operator.attributes
    sizes = [int(size) for size in attributes["shape"]]
    size = graph.size(graph.name(operator.input(0)), int(attributes["input_dim_idx"]))
    place = int(attributes["output_dim_idx"])
    parts = [graph.integers(sizes[:place]), size, graph.integers(sizes[place + 1 :])]
    number = graph.constant([attributes["value"]], operator.output().dtype)
    return str(graph.add("Expand", [number, graph.add("Concat", parts, axis=0)]))


@lowers("pd_op.arange")
def arange(graph: Graph, operator: Operator) -> str:
    """Numbers from start to end in steps."""
    output = operator.output()
    known = [graph.known(operator.input(index)) for index in range(3)]
    if all(array is not None for array in known):
        start, end, step = (array.reshape([]).item() for array in known if array is not None)
        return graph.constant(np.arange(start, end, step).astype(output.dtype or np.int64))
    scalars = []
    for index in range(3):
        value = operator.input(index)
        name = graph.name(value)
        if value.dtype != output.dtype:
            name = graph.cast(name, output.dtype)
        scalars.append(str(graph.add("Reshape", [name, graph.integers([])])) if value.rank else name)
    return str(graph.add("Range", scalars))


@lowers("pd_op.share_data", "pd_op.share_data_")
def share_data(graph: Graph, operator: Operator) -> str:
    """The same tensor under another name: a buffer."""
    return graph.name(operator.input(0))


@lowers("builtin.combine")
def combine(graph: Graph, operator: Operator) -> None:
    """A list of tensors."""
    graph.bind_list(operator.output(), [graph.name(value) for value in operator.inputs if value is not None])


@lowers("builtin.split")
def split_list(graph: Graph, operator: Operator) -> Sequence[str]:
    """The tensors of a list."""
    return graph.names(operator.input(0))
