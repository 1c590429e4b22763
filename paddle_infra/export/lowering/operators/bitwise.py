"""Operators on bits; of booleans they are those of logic."""

from __future__ import annotations

import numpy as np

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.program import Operator
from paddle_infra.export.lowering.registry import lowers

_BITWISE_OPSET = 18


@lowers("pd_op.bitwise_and", "pd_op.bitwise_or", "pd_op.bitwise_xor", "pd_op.bitwise_not")
def bitwise(graph: Graph, operator: Operator) -> str:
    """And, or, exclusive or, not."""
    name = operator.name.removeprefix("pd_op.bitwise_").capitalize()
    is_logical = operator.input(0).dtype == np.bool_
    if not is_logical and graph.opset < _BITWISE_OPSET:
        graph.refuse(operator, f"integers, which need opset {_BITWISE_OPSET}")
    inputs = [graph.name(value) for value in operator.inputs if value is not None]
    return str(graph.add(name if is_logical else f"Bitwise{name}", inputs))
