"""Batches of ids with more and more padding that holds arbitrary ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import paddle
from paddle import Tensor

LENGTHS = (5, 1, 3)


def assert_padding_has_no_effect(
    model: paddle.nn.Layer,
    run: Callable[[Tensor, Tensor], tuple[Tensor, Sequence[Tensor]]],
    vocab_size: int,
    *,
    lengths: Sequence[int] = LENGTHS,
    tolerance: float = 2e-6,
) -> None:
    """Compare for 0, 1 and 7 more positions with each row alone and unpadded.

    ``run`` takes ids and a mask and returns the sum of the rows' losses and outputs ``[B, ...]``; those with as many
    positions as the ids are compared at the real tokens. Gradients of all parameters are compared as well.
    """
    rng = np.random.default_rng(5)
    ids = [rng.integers(0, vocab_size, length) for length in lengths]

    def outcome(rows: Sequence[int], extra: int) -> tuple[list[list[np.ndarray]], dict[str, np.ndarray]]:
        width = max(lengths[row] for row in rows) + extra
        batch = rng.integers(0, vocab_size, (len(rows), width))
        mask = np.zeros((len(rows), width), dtype="int64")
        for index, row in enumerate(rows):
            batch[index, : lengths[row]] = ids[row]
            mask[index, : lengths[row]] = 1
        model.clear_gradients()
        loss, outputs = run(paddle.to_tensor(batch), paddle.to_tensor(mask))
        loss.backward()
        kept = [
            [
                output.numpy()[index, : lengths[row]] if output.shape[1] == width else output.numpy()[index]
                for output in outputs
            ]
            for index, row in enumerate(rows)
        ]
        return kept, {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}

    alone = [outcome([row], 0) for row in range(len(lengths))]
    for extra in (0, 1, 7):
        outputs, gradients = outcome(range(len(lengths)), extra)
        for row, (expected, _) in enumerate(alone):
            for got, value in zip(outputs[row], expected[0], strict=True):
                np.testing.assert_allclose(got, value, atol=tolerance, rtol=tolerance)
        assert gradients
        for name, gradient in gradients.items():
            wanted = sum(parts[name] for _, parts in alone)
            np.testing.assert_allclose(
                gradient, wanted, atol=20 * tolerance, rtol=20 * tolerance, err_msg=name
            )
