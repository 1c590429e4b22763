"""A layer as a program with dynamic axes, on batches of several sizes; a loss as a layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle

from tests.nn.programs import assert_program_is_layer


def runs_alike(
    layer: paddle.nn.Layer,
    folder: Path,
    specs: list[tuple[list[int | None], str]],
    *batches: list[np.ndarray],
    trains: bool = True,
) -> None:
    """Compare outputs, gradients and the reloaded program with the layer on each batch (arguments in order)."""
    input_spec = [paddle.static.InputSpec(shape, dtype) for shape, dtype in specs]
    inputs = [[paddle.to_tensor(value) for value in batch] for batch in batches]
    assert_program_is_layer(layer, input_spec, inputs, folder, trains=trains, tolerance=1e-5)


class LossOf(paddle.nn.Layer):
    """A head's loss, behind a linear layer of width 8, as the forward pass of a layer."""

    def __init__(self, head: paddle.nn.Layer, method: str = "loss", **options) -> None:
        super().__init__()
        self.inner = paddle.nn.Linear(8, 8)
        self.head, self.method, self.options = head, method, options

    def forward(self, first, second, third=None):
        inputs = [self.inner(first), second] + ([] if third is None else [third])
        return getattr(self.head, self.method)(*inputs, **self.options)
