"""Save a layer with dynamic axes, load it, and run it on other sizes than it was captured with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle


def runs_alike(
    layer: paddle.nn.Layer,
    folder: Path,
    specs: list[tuple[list[int | None], str]],
    *batches: list[np.ndarray],
) -> None:
    """Compare the saved and loaded program with the layer on each batch (arguments in order)."""
    input_spec = [paddle.static.InputSpec(shape, dtype) for shape, dtype in specs]
    layer.eval()
    expected = [layer(*map(paddle.to_tensor, batch)) for batch in batches]
    paddle.jit.save(
        paddle.jit.to_static(layer, input_spec=input_spec, full_graph=True), str(folder / "program")
    )
    loaded = paddle.jit.load(str(folder / "program"))
    for batch, true in zip(batches, expected, strict=True):
        found = loaded(*map(paddle.to_tensor, batch))
        for a, b in zip(_list(found), _list(true), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


def _list(value: object) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


class LossOf(paddle.nn.Layer):
    """A head's loss, behind a linear layer of width 8, as the forward pass of a layer."""

    def __init__(self, head: paddle.nn.Layer, method: str = "loss", **options) -> None:
        super().__init__()
        self.inner = paddle.nn.Linear(8, 8)
        self.head, self.method, self.options = head, method, options

    def forward(self, first, second, third=None):
        inputs = [self.inner(first), second] + ([] if third is None else [third])
        return getattr(self.head, self.method)(*inputs, **self.options)
