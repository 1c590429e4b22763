"""A whole program to an ONNX model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from paddle_infra._core.errors import UnsupportedError
from paddle_infra._core.extras import require
from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.program import LoadedProgram, Operator, load_program
from paddle_infra.export.lowering.registry import find_lowering
from paddle_infra.export.spec import TensorSpec

OPSETS = range(13, 24)
"""Operator sets that this converter writes."""

_STRUCTURE = ("pd_op.data", "builtin.shadow_output", "pd_op.fetch")
# The file format of an operator set's time: readers of that time know no later one.
_IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}


def unsupported(program: LoadedProgram) -> list[str]:
    """Return the names of the operators without a lowering, sorted."""
    return sorted(
        {
            operator.name
            for operator in _all(program.operators)
            if operator.name not in _STRUCTURE and find_lowering(operator.name) is None
        }
    )


def convert(
    prefix: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    opset: int,
    attention: str = "decomposed",
) -> Any:
    """Return the ONNX model of the program ``prefix.json``.

    Args:
        prefix: path of the program and its parameters, without suffix.
        inputs: names, dtypes and axes of its inputs.
        outputs: likewise, in order.
        opset: ONNX operator set, 13 to 23.
        attention: ``"decomposed"``, ``"standard"`` or ``"contrib"``; see :func:`paddle_infra.export.to_onnx`.

    Raises:
        UnsupportedError: operators have no lowering; all are named.
        ExportError: Paddle cannot load the program.
    """
    onnx = require("onnx", extra="onnx", purpose="exporting to ONNX")
    program = load_program(prefix)
    missing = unsupported(program)
    if missing:
        raise UnsupportedError(
            f"expected operators that can be written as ONNX, got {missing}: register a function for each with "
            "paddle_infra.export.lowers"
        )
    graph = Graph(program, opset, attention)
    graph_outputs: list[str] = []
    for operator in program.operators:
        if operator.name == "pd_op.data":
            graph.bind(operator.output(), operator.attributes["name"])
        elif operator.name in _STRUCTURE:
            graph_outputs.append(graph.name(operator.input(0)))
        else:
            lower(graph, operator)
    for spec, name in zip(outputs, graph_outputs, strict=True):
        graph.add_output(name, spec.name)
    helper = onnx.helper
    return helper.make_model(
        helper.make_graph(
            graph.live_nodes([spec.name for spec in outputs]),
            "paddle_infra",
            [helper.make_tensor_value_info(s.name, graph.onnx_dtype(s.dtype), list(s.shape)) for s in inputs],
            [
                helper.make_tensor_value_info(s.name, graph.onnx_dtype(s.dtype), list(s.shape))
                for s in outputs
            ],
            initializer=graph.live_initializers(),
        ),
        opset_imports=[helper.make_opsetid("", opset)]
        + [helper.make_opsetid(domain, version) for domain, version in sorted(graph.domains.items())],
        ir_version=_IR_VERSIONS[opset],
    )


def lower(graph: Graph, operator: Operator) -> None:
    """Add one operator's nodes and bind its outputs."""
    function = find_lowering(operator.name)
    assert function is not None, operator.name  # convert has looked
    graph.begin(operator)
    names = function(graph, operator)
    if names is None:
        return
    for value, name in zip(operator.outputs, [names] if isinstance(names, str) else names, strict=False):
        if value is not None and name is not None:
            graph.bind(value, name)


def _all(operators: Iterable[Operator]) -> Iterable[Operator]:
    for operator in operators:
        yield operator
        for block in operator.blocks:
            yield from _all(block.operators)
