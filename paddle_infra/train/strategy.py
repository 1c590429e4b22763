"""Where training runs: the device, the way batches get there, and sums across processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import paddle

from paddle_infra._core.errors import UnsupportedError


class Strategy(Protocol):
    """What the trainer asks of a strategy. Methods that mention processes are called by all of them at once.

    Attributes:
        rank: number of this process, from 0.
        ranks: how many processes train together.
        overlap: whether gradients may be exchanged in the last pass of a window (:meth:`exchanging`).
        exchanges_each_pass: whether they must be, in every pass, because no process keeps them whole.
        has_whole_parameters: whether every process has all parameters all the time, not only where they are
            :meth:`gathered`.
    """

    rank: int
    ranks: int
    overlap: bool
    exchanges_each_pass: bool
    has_whole_parameters: bool

    def prepare(
        self, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
    ) -> tuple[paddle.nn.Layer, paddle.optimizer.Optimizer]:
        """Return the layer that the training step calls and the optimizer that steps, wrapped if need be.

        All processes have the same weights afterwards.
        """
        ...

    def to_device(self, batch: Any) -> Any:
        """Return the batch with its NumPy arrays as tensors on the device."""
        ...

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of each of ``values`` over all processes, in float64."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Return the picklable ``value`` of every process, by rank."""
        ...

    def exchanging(self, network: paddle.nn.Layer, is_joint: bool) -> AbstractContextManager[None]:
        """Return the context of one forward and backward pass.

        ``is_joint`` says that every process makes this pass: gradients may be exchanged meanwhile.
        """
        ...

    def reduce_gradients(self, model: paddle.nn.Layer) -> None:
        """Replace every gradient by its sum over all processes."""
        ...

    def gathered(self, model: paddle.nn.Layer) -> AbstractContextManager[None]:
        """Return a context in which every process has all parameters; they may be read, called and set."""
        ...

    def whole_weights(self, model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
        """Return all parameters and buffers by name in process 0."""
        ...

    def full_optimizer_state(self, tensors: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Return the whole state of the optimizer in process 0; in the others at least the part that each holds."""
        ...

    def own_optimizer_state(self, tensors: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Return the part of the whole state that this process is to hold."""
        ...


def require_whole_parameters(strategy: Strategy, who: str) -> None:
    """Raise UnsupportedError if ``who``, which reads all parameters outside of passes, would find only a part."""
    if not strategy.has_whole_parameters:
        raise UnsupportedError(
            f"{who}: expected a strategy under which every process has all parameters, got "
            f"{type(strategy).__name__} with parameters in parts: use stage 1 or 2"
        )


class SingleDevice:
    """One process, one device.

    Args:
        device: a Paddle device name such as "cpu" or "gpu:0"; None keeps the current one.
    """

    rank = 0
    ranks = 1
    overlap = False
    exchanges_each_pass = False
    has_whole_parameters = True

    def __init__(self, device: str | None = None) -> None:
        if device is not None:
            paddle.set_device(device)
        self.device: str = paddle.get_device()

    def prepare(
        self, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
    ) -> tuple[paddle.nn.Layer, paddle.optimizer.Optimizer]:
        """Return both unchanged."""
        return model, optimizer

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

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the values: there is no other process."""
        return [float(value) for value in values]

    def gather(self, value: Any) -> list[Any]:
        """Return ``[value]``."""
        return [value]

    def exchanging(self, network: paddle.nn.Layer, is_joint: bool) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()

    def reduce_gradients(self, model: paddle.nn.Layer) -> None:
        """Do nothing: the gradients are whole."""

    def gathered(self, model: paddle.nn.Layer) -> AbstractContextManager[None]:
        """Return a context that does nothing: all parameters are here."""
        return nullcontext()

    def whole_weights(self, model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
        """Return parameters and buffers by name."""
        return dict(model.state_dict())

    def full_optimizer_state(self, tensors: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Return ``tensors``: they are all there is."""
        return tensors

    def own_optimizer_state(self, tensors: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Return ``tensors``: this process holds them all."""
        return tensors
