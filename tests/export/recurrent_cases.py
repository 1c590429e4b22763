"""Recurrent networks for the tests of the lowerings: every kind, with and without lengths and initial states."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from tests.export.lowering_cases import Case, normal

_KINDS: dict[str, tuple[type[nn.Layer], dict[str, Any]]] = {
    "LSTM": (nn.LSTM, {}),
    "GRU": (nn.GRU, {}),
    "RNN": (nn.SimpleRNN, {}),
    "RNN, relu": (nn.SimpleRNN, {"activation": "relu"}),
}


class Network(nn.Layer):
    """A network of hidden size 5 that returns all that it computes; ``z`` is the initial state."""

    def __init__(self, kind: str, layers: int, direction: str) -> None:
        super().__init__()
        network, options = _KINDS[kind]
        paddle.seed(3)
        self.network = network(4, 5, num_layers=layers, direction=direction, dropout=0.3, **options)
        self.has_cell = kind == "LSTM"
        self.eval()

    def forward(self, x: Tensor, y: Tensor | None = None, z: Tensor | None = None) -> tuple[Tensor, ...]:
        state = None if z is None else (z, z * 0.5) if self.has_cell else z
        output, final = self.network(x, state, sequence_length=y)
        return (output, *final) if self.has_cell else (output, final)


LENGTHS = np.array([6, 1, 4])


def _case(kind: str, layers: int, direction: str, lengths: bool, states: bool) -> Case:
    inputs, axes = {"x": normal(3, 6, 4)}, {"x": (0, 1)}
    if lengths:
        inputs["y"] = LENGTHS
    if states:
        cells = layers * (2 if direction == "bidirect" else 1)
        inputs["z"], axes["z"] = normal(cells, 3, 5), (1,)
    return Case(Network(kind, layers, direction), inputs, axes, atol=1e-5)


RECURRENT_CASES = {
    f"{kind}, {layers} x {direction}, lengths {lengths}, states {states}": _case(
        kind, layers, direction, lengths, states
    )
    for kind, (layers, direction), (lengths, states) in itertools.product(
        _KINDS,
        ((1, "forward"), (2, "forward"), (2, "bidirect")),
        ((False, False), (True, False), (True, True)),
    )
}
