"""Recurrent networks: Paddle's one operator for all layers and directions, as one ONNX node per layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddle_infra.export.lowering.graph import Graph
from paddle_infra.export.lowering.program import Operator
from paddle_infra.export.lowering.registry import lowers

# Paddle's gates stand in the order i, f, g, o (LSTM) and r, z, n (GRU); ONNX wants i, o, f, g and z, r, n.
_KINDS = {
    "LSTM": ("LSTM", (0, 3, 1, 2)),
    "GRU": ("GRU", (1, 0, 2)),
    "RNN_TANH": ("RNN", (0,)),
    "RNN_RELU": ("RNN", (0,)),
}


@lowers("pd_op.rnn")
def rnn(graph: Graph, operator: Operator) -> list[str | None] | None:
    """A stack of LSTM, GRU or Elman layers in one or both directions, time first.

    With lengths, both operators stop each row at its length: later outputs are zeros, final states those of the last
    step, and the backward direction starts at the last step.
    """
    attributes = operator.attributes
    if attributes["mode"] not in _KINDS:
        graph.refuse(operator, f"mode {attributes['mode']!r}")
    if attributes["dropout_prob"] and not attributes["is_test"]:
        graph.refuse(operator, "dropout during training")
    layers, directions = int(attributes["num_layers"]), 2 if attributes["is_bidirec"] else 1
    name = graph.name(operator.input(0))
    lengths = operator.inputs[3]
    steps = "" if lengths is None else graph.cast(graph.name(lengths), np.int32)
    initial = [_parts(graph, state, layers, directions) for state in graph.names(operator.input(1))]
    weights = _weights(graph, operator, layers, directions)
    finals: list[list[str]] = [[] for _ in initial]
    for layer, parameters in enumerate(weights):
        states = [parts[layer] for parts in initial]
        name, *ends = _layer(graph, operator, name, parameters, steps, states)
        for final, end in zip(finals, ends, strict=True):
            final.append(end)
    graph.bind(operator.output(0), name)
    graph.bind_list(operator.output(2), [_joined(graph, final) for final in finals])
    return None


def _layer(
    graph: Graph,
    operator: Operator,
    name: str,
    parameters: Sequence[str],
    steps: str,
    states: Sequence[str],
) -> list[str]:
    """Return the outputs ``[time, batch, directions * hidden]`` of one layer, and its final states."""
    attributes = operator.attributes
    kind, _ = _KINDS[attributes["mode"]]
    width, directions = int(attributes["hidden_size"]), 2 if attributes["is_bidirec"] else 1
    output, *ends = graph.add(
        kind,
        [name, *parameters, steps, *states],
        outputs=1 + len(states),
        hidden_size=width,
        direction="bidirectional" if directions == 2 else None,
        # The reset gate after the product, as Paddle and cuDNN have it.
        linear_before_reset=1 if kind == "GRU" else None,
        activations=["Relu"] * directions if attributes["mode"] == "RNN_RELU" else None,
    )
    if directions == 1:
        return [graph.squeeze(output, [1]), *ends]
    beside = graph.add("Transpose", [output], perm=[0, 2, 1, 3])
    return [str(graph.add("Reshape", [beside, graph.integers([0, 0, directions * width])])), *ends]


def _parts(graph: Graph, name: str, layers: int, directions: int) -> list[str]:
    """Cut states ``[layers * directions, batch, hidden]`` into those of each layer."""
    return graph.split(name, 0, [directions] * layers)


def _joined(graph: Graph, names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else str(graph.add("Concat", list(names), axis=0))


def _weights(graph: Graph, operator: Operator, layers: int, directions: int) -> list[list[str]]:
    """Return the three parameters ``W``, ``R`` and ``B`` of each layer in ONNX's order of gates.

    Paddle lists the matrices of all layers and directions (input's, state's, input's, …), then the biases likewise.
    """
    names = graph.names(operator.input(2))
    cells = layers * directions
    if len(names) != 4 * cells or not set(names) <= set(graph.initializers):
        graph.refuse(operator, "weights that are not four constants for each layer and direction")
    values = [graph.initializers[name] for name in names]
    _, order = _KINDS[operator.attributes["mode"]]
    found = []
    for layer in range(layers):
        own = [layer * directions + direction for direction in range(directions)]
        inputs, states = ([2 * cell + which for cell in own] for which in (0, 1))
        biases = [2 * cells + 2 * cell + which for cell in own for which in (0, 1)]
        matrices = [
            np.stack([_gates(values[place], order) for place in places]) for places in (inputs, states)
        ]
        bias = np.concatenate([_gates(values[place], order) for place in biases])
        found.append([*map(graph.constant, matrices), graph.constant(bias.reshape(directions, -1))])
    return found


def _gates(array: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Return a parameter with its gates in another order."""
    gates = array.reshape(len(order), -1, *array.shape[1:])
    return gates[list(order)].reshape(array.shape)
