"""Where training runs: the device, the way batches get there, and sums across processes."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import paddle


class Strategy(Protocol):
    """What the trainer asks of a strategy."""

    def prepare(self, model: paddle.nn.Layer) -> paddle.nn.Layer:
        """Return the layer to train (wrapped if the strategy needs it)."""
        ...

    def to_device(self, batch: Any) -> Any:
        """Return the batch with its NumPy arrays as tensors on the device."""
        ...

    def total(self, items: int) -> int:
        """Return the sum of ``items`` over all processes."""
        ...


class SingleDevice:
    """One process, one device.

    Args:
        device: a Paddle device name such as "cpu" or "gpu:0"; None keeps the current one.
    """

    def __init__(self, device: str | None = None) -> None:
        if device is not None:
            paddle.set_device(device)
        self.device: str = paddle.get_device()

    def prepare(self, model: paddle.nn.Layer) -> paddle.nn.Layer:
        """Return the model unchanged."""
        return model

    def to_device(self, batch: Any) -> Any:
        """Turn NumPy arrays inside dicts, lists and tuples into tensors; leave everything else as it is."""
        if isinstance(batch, np.ndarray):
            return paddle.to_tensor(batch, place=self.device)
        if isinstance(batch, dict):
            return {key: self.to_device(value) for key, value in batch.items()}
        if isinstance(batch, (list, tuple)):
            converted = [self.to_device(value) for value in batch]
            is_named = isinstance(batch, tuple) and hasattr(batch, "_fields")
            return type(batch)(*converted) if is_named else type(batch)(converted)
        return batch

    def total(self, items: int) -> int:
        """Return ``items``: there is no other process."""
        return items
