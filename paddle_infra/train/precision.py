"""In which precision training runs: what is cast, how the loss goes backward and how the optimizer steps."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import paddle

from paddle_infra._core.checks import check_choice
from paddle_infra._core.errors import CheckpointError, InvalidInputError, UnsupportedError
from paddle_infra._core.matmul_precision import PRECISIONS, get_matmul_precision, set_matmul_precision

_FORMATS: dict[str, Literal["bfloat16", "float16"]] = {
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}


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
    """float32 tensors; nothing is cast, nothing is scaled.

    Args:
        matmul: how this package's operators multiply matrices inside: "highest" (float32), or "medium" (factors
            rounded to bfloat16: the reduced precision of a CPU); None leaves what
            :class:`~paddle_infra.ops.set_matmul_precision` says.

    Raises:
        InvalidInputError: ``matmul`` is something else.
    """

    def __init__(self, matmul: str | None = None) -> None:
        if matmul is not None:
            check_choice("matmul", matmul, PRECISIONS)
        self.matmul = matmul

    def prepare(
        self, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
    ) -> tuple[paddle.nn.Layer, paddle.optimizer.Optimizer]:
        """Return both unchanged."""
        return model, optimizer

    def forward(self) -> AbstractContextManager[Any]:
        """Return the context that sets how matrices are multiplied; the backward pass follows it."""
        return set_matmul_precision(self.matmul or get_matmul_precision())

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


class _LossScaling(paddle.amp.GradScaler):
    """Paddle's, which with NumPy 2.4 fails where it prints the scale that it is about to lower."""

    _scale: paddle.Tensor
    _incr_count: int
    _decr_count: int

    def _update(self) -> None:
        is_bad = bool(self._cache_found_inf)
        self._incr_count, self._decr_count = (
            (0, self._decr_count + 1) if is_bad else (self._incr_count + 1, 0)
        )
        if self._decr_count == self._decr_every_n_nan_or_inf:
            self._scale, self._decr_count = self._scale * self._decr_ratio, 0
        if self._incr_count == self._incr_every_n_steps:
            self._scale, self._incr_count = self._scale * self._incr_ratio, 0


class MixedPrecision:
    """Automatic mixed precision on a GPU: Paddle's ``auto_cast``, with loss scaling for float16.

    Level "O1" keeps float32 weights and casts the inputs of matrix products; "O2" keeps 16-bit weights, and float32
    master weights in the optimizer. This package's operators follow the same context: attention, linear layers
    and heads take their inputs in the 16-bit format, sums, softmax and losses are float32, and norms compute in
    float32.

    Args:
        dtype: "bfloat16" or "float16". Only float16 needs its loss scaled.
        level: "O1" or "O2".
        init_loss_scaling: first factor of the loss (float16).
        device: where it will run; None is the current device.

    Raises:
        UnsupportedError: the device is a CPU, where Paddle's mixed precision does nothing.
        InvalidInputError: another argument is out of range.
    """

    def __init__(
        self,
        dtype: Literal["bfloat16", "float16"] = "bfloat16",
        *,
        level: Literal["O1", "O2"] = "O1",
        init_loss_scaling: float = 32768.0,
        device: str | None = None,
    ) -> None:
        check_choice("dtype", dtype, ("bfloat16", "float16"))
        check_choice("level", level, ("O1", "O2"))
        _refuse_cpu(dtype, device or paddle.get_device())
        self.dtype, self.level = dtype, level
        self.scaler: paddle.amp.GradScaler | None = None
        if dtype == "float16":
            self.scaler = _LossScaling(init_loss_scaling=init_loss_scaling)

    def prepare(
        self, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
    ) -> tuple[paddle.nn.Layer, paddle.optimizer.Optimizer]:
        """For "O2", make the weights 16 bits wide, with float32 masters in the optimizer."""
        if self.level == "O1":
            return model, optimizer
        decorated: tuple[paddle.nn.Layer, paddle.optimizer.Optimizer] = paddle.amp.decorate(
            models=model, optimizers=optimizer, level="O2", dtype=self.dtype, master_weight=True
        )
        return decorated

    def forward(self) -> AbstractContextManager[Any]:
        """Return Paddle's ``auto_cast``."""
        context: AbstractContextManager[Any] = paddle.amp.auto_cast(dtype=self.dtype, level=self.level)
        return context

    def backward(self, loss: paddle.Tensor) -> None:
        """Accumulate the gradients, of the scaled loss for float16."""
        if self.scaler is not None:
            with (
                self.forward()
            ):  # outside of auto_cast the scaler takes the loss for float32 and turns itself off
                loss = self.scaler.scale(loss)
        loss.backward()

    def step(self, optimizer: paddle.optimizer.Optimizer) -> bool:
        """Unscale the gradients and step; for float16, not if they overflowed, and then lower the scale."""
        if self.scaler is None:
            optimizer.step()
            return True
        self.scaler.unscale_(optimizer)
        is_finite = not bool(self.scaler._found_inf)
        if is_finite:
            self.scaler.step(optimizer)
        else:  # without the optimizer, whose clipping takes gradients that are not finite for an error
            self.scaler._cache_found_inf = True
        self.scaler.update()
        return is_finite

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loss scaling."""
        if self.scaler is None:
            return {}
        state = self.scaler.state_dict()
        return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`.

        Raises:
            CheckpointError: the checkpoint was written in another precision.
        """
        if bool(state) != (self.scaler is not None):
            raise CheckpointError(
                f"precision: expected {'the' if self.scaler is not None else 'no'} state of a loss scaling for "
                f"{self.dtype}, got {sorted(state) or 'none'}"
            )
        if self.scaler is not None:
            self.scaler.load_state_dict(state)


def precision_from(value: str | Precision | None, device: str) -> Precision:
    """Return the precision for a name, an object or None.

    Args:
        value: "float32" or "fp32" (what None is too); "highest" or "medium", see :class:`Float32`; "bfloat16",
            "bf16", "float16" or "fp16", see :class:`MixedPrecision`; or an object.
        device: where it will run.

    Raises:
        UnsupportedError: automatic mixed precision was asked for where it cannot work.
        InvalidInputError: the name is unknown.
    """
    if value is None or value in ("float32", "fp32"):
        return Float32()
    if not isinstance(value, str):
        return value
    if value in PRECISIONS:
        return Float32(value)
    if value in _FORMATS:
        return MixedPrecision(_FORMATS[value], device=device)
    names = ["float32", *PRECISIONS, *_FORMATS]
    raise InvalidInputError(f"precision: expected one of {names} or a Precision object, got {value!r}")


def _refuse_cpu(dtype: str, device: str) -> None:
    if device.split(":")[0] == "cpu":
        raise UnsupportedError(
            f"precision {dtype!r} on device 'cpu': expected 'float32', or 'medium', which multiplies in bfloat16 "
            "inside the operators of this package. Paddle has no bfloat16 or float16 kernels for training on a "
            "CPU and its auto_cast does nothing there: it would silently be float32"
        )
