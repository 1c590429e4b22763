"""Products of matrices."""

from __future__ import annotations

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.program import Operator, Value
from paddle_infra.export.lowering.registry import lowers


@lowers("pd_op.matmul")
def matmul(graph: Graph, operator: Operator) -> str:
    """A product, either factor transposed in its last two axes."""
    names = []
    for index, flag in enumerate(("transpose_x", "transpose_y")):
        value = operator.input(index)
        name = graph.name(value)
        # A vector has nothing to transpose.
        names.append(swap_last(graph, name, value) if operator.attributes[flag] and value.rank > 1 else name)
    return str(graph.add("MatMul", names))


def swap_last(graph: Graph, name: str, value: Value) -> str:
    """Exchange the last two axes; a constant is stored that way."""
    known = graph.known(value)
    if known is not None:
        return graph.transposed(name, known)
    axes = list(range(value.rank))
    axes[-2:] = axes[-1], axes[-2]
    return str(graph.add("Transpose", [name], perm=axes))


@lowers("pd_op.bmm", "pd_op.mv", "pd_op.dot")
def plain_product(graph: Graph, operator: Operator) -> str:
    """A product of batches of matrices, of a matrix and a vector, or of vectors."""
    x, y = operator.input(0), operator.input(1)
    names = [graph.name(x), graph.name(y)]
    if operator.name == "pd_op.dot":
        product = graph.add("Mul", names)
        return str(graph.add("ReduceSum", [product, graph.integers([x.rank - 1])], keepdims=0))
    return str(graph.add("MatMul", names))


@lowers("pd_op.addmm")
def addmm(graph: Graph, operator: Operator) -> str:
    r""":math:`\beta A + \alpha X Y`."""
    value = operator.input(0)
    product = graph.add("MatMul", [graph.name(operator.input(1)), graph.name(operator.input(2))])
    product = graph.add("Mul", [product, graph.like(value, float(operator.attributes["alpha"]))])
    scaled = graph.add("Mul", [graph.name(value), graph.like(value, float(operator.attributes["beta"]))])
    return str(graph.add("Add", [scaled, product]))


@lowers("pd_op.einsum")
def einsum(graph: Graph, operator: Operator) -> list[str | None]:
    """A sum over indices, in ONNX's own operator."""
    names = graph.names(operator.input(0))
    return [str(graph.add("Einsum", names, equation=operator.attributes["equation"].replace(" ", "")))]
