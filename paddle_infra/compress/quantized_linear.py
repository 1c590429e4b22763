"""Linear layers with rounded weights: int8, and int4 in groups."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.ops.linear_int8 import quantize_weight

INT4_LARGEST = 7  # codes are -7 to 7: symmetric, so zero is exact


class Int8Linear(nn.Layer):
    r"""A linear layer of integer weights with one scale per output channel, computed by :func:`ops.linear_int8`.

    The rows of the input are rounded to int8 as they come, each by itself: a result does not depend on what else is
    in the batch, nor on padding. There is no gradient. ``bits=4`` has the same form with codes from -7 to 7: it takes
    a byte per weight in memory and in exports, and half of one in files of :func:`save_compressed`.

    Args:
        weight_int8: int8 ``[K, N]``.
        weight_scale: float32 ``[N]``.
        bias: float32 ``[N]``, or None.
        activation: as in :func:`paddle_infra.ops.linear`; ``"geglu"`` and ``"swiglu"`` halve the columns.
        bits: 8 or 4.

    Shapes:
        ``[..., K]`` to ``[..., N]``, or ``N / 2`` with a gate. State: ``weight_int8``, ``weight_scale``, ``bias``.
    """

    def __init__(
        self,
        weight_int8: Tensor,
        weight_scale: Tensor,
        bias: Tensor | None,
        activation: Any = "none",
        *,
        bits: int = 8,
    ) -> None:
        super().__init__()
        self.register_buffer("weight_int8", weight_int8)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.activation, self.bits = activation, bits

    @property
    def weight(self) -> Tensor:
        """The float32 weight ``[K, N]`` that the codes stand for."""
        return self.weight_int8.astype("float32") * self.weight_scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        is_gated = self.activation in ("geglu", "swiglu")
        y = ops.linear_int8(
            x,
            self.weight_int8,
            self.weight_scale,
            bias=self.bias,
            activation="none" if is_gated else self.activation,
        )
        if not is_gated:
            return y
        gate, value = y.chunk(2, axis=-1)
        return (F.gelu(gate) if self.activation == "geglu" else F.silu(gate)) * value

    def extra_repr(self) -> str:
        """Describe the layer in one line."""
        return f"shape={self.weight_int8.shape}, bits={self.bits}, activation={self.activation}"


class Int4Linear(nn.Layer):
    r"""A linear layer whose weights have 15 values, with a scale for each group of inputs and each output.

    The weight is kept in float32 and multiplied by :func:`ops.linear`: in memory, in time and in Paddle exports this
    saves nothing. Files of :func:`save_compressed` hold the codes, two in a byte, and the scales. The input is not
    rounded. No gradient reaches the weight.

    Args:
        weight: float32 ``[K, N]``, every number a code times its scale.
        weight_scale: float32 ``[⌈K / group_size⌉, N]``.
        bias: float32 ``[N]``, or None.
        activation: as in :func:`paddle_infra.ops.linear`, or ``"geglu"``.
        group_size: consecutive inputs that share a scale.

    Shapes:
        as :class:`Int8Linear`. State: ``weight``, ``weight_scale``, ``bias``.
    """

    bits = 4

    def __init__(
        self,
        weight: Tensor,
        weight_scale: Tensor,
        bias: Tensor | None,
        activation: Any = "none",
        *,
        group_size: int,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.activation, self.group_size = activation, group_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        if self.activation != "geglu":
            return ops.linear(x, self.weight, self.bias, activation=self.activation)
        gate, value = ops.linear(x, self.weight, self.bias).chunk(2, axis=-1)
        return F.gelu(gate) * value

    def codes(self) -> Tensor:
        """Return the int8 codes ``[K, N]``, from -7 to 7.

        Raises:
            InvalidInputError: the weight is not made of codes and scales (any more).
        """
        scale = spread(self.weight_scale, self.group_size, self.weight.shape[0])
        codes = paddle.round(self.weight / scale)
        if bool((codes.abs() > INT4_LARGEST).any()) or not bool((codes * scale == self.weight).all()):
            raise InvalidInputError(
                "weight: expected codes from -7 to 7 times weight_scale, got other numbers: quantize the layer again"
            )
        return codes.astype("int8")

    def extra_repr(self) -> str:
        """Describe the layer in one line."""
        return (
            f"shape={self.weight.shape}, bits=4, group_size={self.group_size}, activation={self.activation}"
        )


def spread(scale: Tensor, group_size: int, rows: int) -> Tensor:
    """Repeat the scale of each group for its rows: ``[⌈K / group_size⌉, N]`` to ``[K, N]``."""
    return paddle.repeat_interleave(scale, group_size, axis=0)[:rows]


def int8_codes(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    r"""Return codes int8 ``[K, N]`` and scales ``[N]``: :math:`s_n = \max_k |W_{kn}| / c`, with c 127 or 7."""
    if bits == 8:
        return quantize_weight(weight)
    codes, scale = int4_codes(weight, weight.shape[0])
    return codes, scale[0]


def int4_codes(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    r"""Return codes int8 ``[K, N]`` from -7 to 7 and scales ``[⌈K / group_size⌉, N]``.

    :math:`s = \max |W| / 7` of the group's inputs and one output, ties to even; a group of zeros has scale 1.

    Raises:
        InvalidInputError: a weight is NaN or infinite.
    """
    with paddle.no_grad():
        weight = weight.detach()
        if not bool(paddle.isfinite(weight).all()):
            raise InvalidInputError("weight: expected finite numbers, got a NaN or an infinity")
        rows, columns = weight.shape
        groups = -(-rows // group_size)
        padded = F.pad(weight, [0, groups * group_size - rows, 0, 0])
        top = padded.reshape([groups, group_size, columns]).abs().max(axis=1)
        scale = paddle.where(top < 1e-30, paddle.ones_like(top), top / INT4_LARGEST)
        codes = paddle.round(weight / spread(scale, group_size, rows))
        return codes.clip(-INT4_LARGEST, INT4_LARGEST).astype("int8"), scale
