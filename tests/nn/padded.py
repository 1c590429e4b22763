"""Runs of a Layer on the same sequences with more and more padding, all of it garbage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import paddle
from paddle import Tensor

GARBAGE = (float("nan"), 1e4, -1e4, float("inf"))
LENGTHS = (5, 1, 3)


def mask_of(lengths: Sequence[int], width: int) -> np.ndarray:
    return (np.arange(width) < np.array(lengths)[:, None]).astype("int64")


def with_garbage(values: np.ndarray, lengths: Sequence[int], extra: int) -> np.ndarray:
    """Widen ``[B, T, W]`` by ``extra`` positions and write garbage at all padding."""
    out = np.concatenate([values, np.zeros((len(values), extra, values.shape[2]), values.dtype)], axis=1)
    for row, length in enumerate(lengths):
        for position in range(length, out.shape[1]):
            out[row, position] = GARBAGE[position % len(GARBAGE)]
    return out


def assert_padding_has_no_effect(
    layer: paddle.nn.Layer,
    run: Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]],
    width: int,
    *,
    lengths: Sequence[int] = LENGTHS,
    tolerance: float = 2e-6,
) -> None:
    """Compare outputs and every gradient for 0, 1 and 7 more positions with those of each row alone, unpadded.

    ``run`` takes hidden states ``[B, T, width]``, lengths and a mask and returns tensors ``[B, ...]``; those that have
    as many positions as the input are compared at the real tokens.
    """
    values = np.random.default_rng(3).standard_normal((len(lengths), max(lengths), width)).astype("float32")

    def outcome(hidden: np.ndarray, rows: Sequence[int]) -> tuple[list[list[np.ndarray]], list[np.ndarray]]:
        layer.clear_gradients()
        tensor = paddle.to_tensor(hidden, stop_gradient=False)
        mask = paddle.to_tensor(mask_of(rows, hidden.shape[1]))
        outputs = run(tensor, paddle.to_tensor(list(rows)), mask)
        kept = []
        total = paddle.zeros([])
        for index, output in enumerate(outputs):
            real = []
            for row, length in enumerate(rows):
                part = output[row, :length] if output.shape[1] == hidden.shape[1] else output[row]
                real.append(part.numpy())
                weight = np.random.default_rng(index).standard_normal(part.shape).astype("float32")
                total = total + (part.astype("float32") * paddle.to_tensor(weight)).sum()
            kept.append(real)
        total.backward()
        gradients = [np.concatenate([tensor.grad.numpy()[r, :n] for r, n in enumerate(rows)])]
        assert all(not tensor.grad.numpy()[r, n:].any() for r, n in enumerate(rows)), "a gradient at padding"
        gradients += [p.grad.numpy() for p in layer.parameters() if p.grad is not None]
        return kept, gradients

    alone = [outcome(values[row : row + 1, :length], [length]) for row, length in enumerate(lengths)]
    for extra in (0, 1, 7):
        outputs, gradients = outcome(with_garbage(values, lengths, extra), lengths)
        for row, (expected, _) in enumerate(alone):
            for got, value in zip(outputs, expected, strict=True):
                np.testing.assert_allclose(got[row], value[0], atol=tolerance, rtol=tolerance)
        expected_gradients = [np.concatenate([g[0] for _, g in alone])]
        expected_gradients += [sum(parts) for parts in zip(*[g[1:] for _, g in alone], strict=True)]
        assert len(gradients) == len(expected_gradients)
        for got_gradient, gradient in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(got_gradient, gradient, atol=20 * tolerance, rtol=20 * tolerance)
