"""A Layer as a program: traced with unknown batch and length, trained through, saved, loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle.static import InputSpec


def _flat(outputs: object) -> list[np.ndarray]:
    if isinstance(outputs, (tuple, list)):
        return [value for output in outputs for value in _flat(output)]
    return [outputs.numpy()]  # type: ignore[attr-defined]


def assert_program_is_layer(
    layer: paddle.nn.Layer,
    specs: Sequence[InputSpec],
    inputs: Sequence[Sequence[paddle.Tensor]],
    path: Path,
    *,
    trains: bool = True,
    tolerance: float = 1e-6,
) -> None:
    """Compare outputs, gradients and the reloaded program with the Layer's own for every one of ``inputs``."""
    layer.eval()
    expected = [_flat(layer(*values)) for values in inputs]
    gradients = [_gradients(layer, values) for values in inputs] if trains else []
    layer.eval()
    static = paddle.jit.to_static(layer, input_spec=list(specs), full_graph=True)
    for index, values in enumerate(inputs):
        _assert_close(_flat(static(*values)), expected[index], tolerance)
        if trains:
            _assert_close(_gradients(static, values), gradients[index], 10 * tolerance)
    static.eval()
    paddle.jit.save(static, str(path / "program"))
    loaded = paddle.jit.load(str(path / "program"))
    for values, wanted in zip(inputs, expected, strict=True):
        _assert_close(_flat(loaded(*values)), wanted, tolerance)


def _gradients(layer: paddle.nn.Layer, values: Sequence[paddle.Tensor]) -> list[np.ndarray]:
    layer.train()
    layer.clear_gradients()
    outputs = layer(*values)
    first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    (first * first).sum().backward()
    found = [p.grad for p in layer.parameters() if p.grad is not None]
    assert found
    return [gradient.numpy().copy() for gradient in found]


def _assert_close(got: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=tolerance)
