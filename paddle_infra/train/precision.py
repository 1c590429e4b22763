"""In which precision training runs: how the loss goes backward and how the optimizer steps."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import paddle

from paddle_infra._core.errors import InvalidInputError, UnsupportedError

_AMP_NAMES = ("amp", "bfloat16", "bf16", "float16", "fp16")


class Precision(Protocol):
    """What the trainer asks of a precision."""

    def prepare(
        self, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
    ) -> tuple[paddle.nn.Layer, paddle.optimizer.Optimizer]:
        """Return model and optimizer, changed if need be (master weights)."""
        ...

    def forward(self) -> AbstractContextManager[Any]:
        """Return the context in which the training step runs."""
        ...

    def backward(self, loss: paddle.Tensor) -> None:
        """Accumulate the gradients of ``loss``."""
        ...

    def step(self, optimizer: paddle.optimizer.Optimizer) -> bool:
        """Update the parameters; return False if nothing was done because a gradient is not finite."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a restart, as JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        ...


class Float32:
    """Plain float32: nothing is cast, nothing is scaled."""

    def prepare(
        self, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
    ) -> tuple[paddle.nn.Layer, paddle.optimizer.Optimizer]:
        """Return both unchanged."""
        return model, optimizer

    def forward(self) -> AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return nullcontext()

    def backward(self, loss: paddle.Tensor) -> None:
        """Call ``loss.backward()``."""
        loss.backward()

    def step(self, optimizer: paddle.optimizer.Optimizer) -> bool:
        """Call ``optimizer.step()``."""
        optimizer.step()
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


def precision_from(value: str | Precision | None, device: str) -> Precision:
    """Return the precision for a name, an object or None (float32).

    Raises:
        UnsupportedError: automatic mixed precision was asked for where it cannot work.
        InvalidInputError: the name is unknown.
    """
    if value is None or value in ("float32", "fp32"):
        return Float32()
    if not isinstance(value, str):
        return value
    if value not in _AMP_NAMES:
        raise InvalidInputError(f"precision: expected 'float32' or a Precision object, got {value!r}")
    if device.split(":")[0] == "cpu":
        raise UnsupportedError(
            f"precision {value!r} on device 'cpu': expected 'float32'. Paddle has no bfloat16 or float16 "
            "kernels for training on a CPU and its auto_cast does nothing there: it would silently be float32"
        )
    raise UnsupportedError(
        f"precision {value!r} on device {device!r}: expected 'float32' or a Precision object; "
        "mixed precision has no built-in Precision yet"
    )
