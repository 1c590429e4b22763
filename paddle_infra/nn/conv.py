"""Convolution blocks: over sequences, where padding must not leak, and over images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.checks import check_choice, check_flag, check_number, check_positive, check_shape
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.padding import check_mask, zero_padding
from paddle_infra.nn.sizes import size_of
from paddle_infra.ops.linear import ActivationName

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"gelu": F.gelu, "none": lambda x: x, "relu": F.relu, "relu6": F.relu6, "silu": F.silu}
)
_GROUPS_OF_NORM = 32  # arXiv:1803.08494, section 3.1


def check_convolution(in_channels: int, out_channels: int, groups: int, **positive: int) -> None:
    """Raise unless all numbers are positive integers and ``groups`` divides both numbers of channels."""
    numbers = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups, **positive}
    for name, value in numbers.items():
        check_positive(name, value)
    if in_channels % groups or out_channels % groups:
        raise InvalidInputError(
            f"groups: expected a divisor of in_channels={in_channels} and out_channels={out_channels}, got {groups}"
        )


class ConvBlock1D(nn.Layer):
    """Convolution over a sequence, norm, activation, dropout; padding is zeroed first and the length stays.

    The output at a real token depends on real tokens only: neighbours beyond either end count as zeros, whether they
    are padding or not there at all. The norm is of each token by itself, since statistics of a batch would depend on
    its padding. The windows are laid side by side and multiplied by :func:`paddle_infra.ops.linear`,
    one group after another (each channel by itself: added up).

    Args:
        in_channels: width of the input.
        out_channels: width of the output.
        kernel_size: tokens that one output sees. Of an even number one more is on the right.
        dilation: distance between them.
        groups: groups of channels that do not see each other.
        causal: whether a token sees only itself and those before it.
        norm: ``"layer"`` or ``"none"``.
        activation: ``"gelu"``, ``"none"``, ``"relu"`` or ``"silu"``.
        dropout: dropout probability at the end.

    Shapes:
        hidden ``[batch_size, seq_len, in_channels]``, attention_mask ``[batch_size, seq_len]`` (1 = token) or None (no
        padding) to ``[batch_size, seq_len, out_channels]``. What stands at padding means nothing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        dilation: int = 1,
        groups: int = 1,
        causal: bool = False,
        norm: str = "none",
        activation: ActivationName = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_convolution(in_channels, out_channels, groups, kernel_size=kernel_size, dilation=dilation)
        check_choice("norm", norm, ("layer", "none"))
        check_choice("activation", activation, ("gelu", "none", "relu", "silu"))
        self.in_channels = in_channels
        self.activation: ActivationName = activation
        self.dropout = check_number("dropout", dropout, 0.0, 1.0)
        reach = dilation * (kernel_size - 1)
        before = reach if check_flag("causal", causal) else dilation * ((kernel_size - 1) // 2)
        self._pad = [before, reach - before]
        self.conv = nn.Conv1D(in_channels, out_channels, kernel_size, dilation=dilation, groups=groups)
        self.norm = nn.LayerNorm(out_channels) if norm == "layer" else None

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the block's output."""
        check_shape("hidden", hidden, [-1, -1, self.in_channels], "[batch_size, seq_len, in_channels]")
        if attention_mask is not None:
            check_mask(attention_mask, hidden)
        hidden = self._extend(zero_padding(hidden, attention_mask))
        fused = "none" if self.norm is not None or self.conv._groups == self.in_channels else self.activation
        hidden = self._convolve(hidden, fused)
        if self.norm is not None:
            hidden = self.norm(hidden)
        if fused == "none":
            hidden = ACTIVATIONS[self.activation](hidden)
        return F.dropout(hidden, self.dropout, training=self.training) if self.dropout else hidden

    def _extend(self, hidden: Tensor) -> Tensor:
        """Put zeros at both ends. Not by ``F.pad``: with oneDNN, Paddle Inference pads another axis of this layout."""
        before, after = (
            [paddle.zeros([size_of(hidden, 0), count, self.in_channels], dtype=hidden.dtype)] if count else []
            for count in self._pad
        )
        return paddle.concat([*before, hidden, *after], axis=1)

    def _convolve(self, hidden: Tensor, activation: ActivationName) -> Tensor:
        """Return the convolution without further zeros.

        Not by Paddle's own: with its channels last, neither Paddle Inference nor paddle2onnx takes it, and between
        transposes, oneDNN's rewriting in Paddle Inference fails.
        """
        reach, groups, weight = sum(self._pad), self.conv._groups, self.conv.weight
        parts = [
            hidden[:, first : first - reach] if first < reach else hidden[:, first:]
            for first in range(0, reach + 1, self.conv._dilation[0])
        ]
        if groups == self.in_channels == weight.shape[0]:
            return paddle.add_n([parts[i] * weight[:, 0, i] for i in range(len(parts))]) + self.conv.bias
        return paddle.concat(
            [
                ops.linear(
                    paddle.concat([_share(part, -1, groups, group) for part in parts], axis=-1),
                    _share(weight, 0, groups, group).transpose([2, 1, 0]).flatten(0, 1),
                    _share(self.conv.bias, 0, groups, group),
                    activation=activation,
                )
                for group in range(groups)
            ],
            axis=-1,
        )


def _share(x: Tensor, axis: int, groups: int, group: int) -> Tensor:
    """Return one of ``groups`` equal slices of ``x`` along its first or last axis."""
    if groups == 1:
        return x
    width = x.shape[axis] // groups
    part = slice(group * width, (group + 1) * width)
    return x[part] if axis == 0 else x[..., part]


class SeparableConv1D(nn.Layer):
    """A convolution over each channel by itself, then one over channels: fewer weights than :class:`ConvBlock1D`.

    Args:
        in_channels: width of the input.
        out_channels: width of the output.
        kernel_size: tokens that one output sees.
        dilation: distance between them.
        causal: whether a token sees only itself and those before it.
        norm: after the second convolution, as in :class:`ConvBlock1D`; so are activation and dropout.
        activation: see there.
        dropout: see there.

    Shapes:
        as :class:`ConvBlock1D`.

    References:
        Kaiser et al., "Depthwise Separable Convolutions for Neural Machine Translation", arXiv:1706.03059, section 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        dilation: int = 1,
        causal: bool = False,
        norm: str = "none",
        activation: ActivationName = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.depthwise = ConvBlock1D(
            in_channels,
            in_channels,
            kernel_size,
            dilation=dilation,
            groups=in_channels,
            causal=causal,
            activation="none",
        )
        self.pointwise = ConvBlock1D(
            in_channels, out_channels, 1, norm=norm, activation=activation, dropout=dropout
        )

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the block's output."""
        return self.pointwise(self.depthwise(hidden, attention_mask))


class ConvBlock2D(nn.Layer):
    """Convolution over an image, norm, activation. Sides are divided by ``stride`` and rounded up.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the window, odd.
        stride: step of the window.
        dilation: distance between pixels in the window.
        groups: groups of channels that do not see each other.
        norm: ``"batch"``, ``"group"`` (in 32 groups, or as many as there are channels if they are fewer) or ``"none"``
            (then the convolution has a bias).
        activation: ``"gelu"``, ``"none"``, ``"relu"``, ``"relu6"`` or ``"silu"``.

    Shapes:
        ``[batch_size, in_channels, height, width]`` to ``[batch_size, out_channels, ⌈height / stride⌉,
        ⌈width / stride⌉]``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        norm: str = "batch",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        check_convolution(
            in_channels, out_channels, groups, kernel_size=kernel_size, stride=stride, dilation=dilation
        )
        if kernel_size % 2 == 0:
            raise InvalidInputError(f"kernel_size: expected an odd number, got {kernel_size}")
        check_choice("activation", activation, tuple(ACTIVATIONS))
        self.in_channels = in_channels
        self.activation = activation
        self.conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias_attr=None if norm == "none" else False,
        )
        self.norm = _norm_2d(norm, out_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Return the block's output."""
        check_shape("image", image, [-1, self.in_channels, -1, -1], "[batch_size, channels, height, width]")
        image = self.conv(image)
        if self.norm is not None:
            image = self.norm(image)
        return ACTIVATIONS[self.activation](image)


def _norm_2d(norm: str, channels: int) -> nn.Layer | None:
    check_choice("norm", norm, ("batch", "group", "none"))
    if norm == "batch":
        return nn.BatchNorm2D(channels)
    if norm == "none":
        return None
    groups = min(_GROUPS_OF_NORM, channels)
    if channels % groups:
        raise InvalidInputError(
            f"out_channels: group norm expected a multiple of {groups} channels, got {channels}"
        )
    return nn.GroupNorm(groups, channels)


class SeparableConv2D(nn.Layer):
    """A convolution over each channel by itself, then one over channels, both with norm and activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the window, odd.
        stride: step of the window.
        dilation: distance between pixels in the window.
        norm: of both, as in :class:`ConvBlock2D`.
        activation: of both, as in :class:`ConvBlock2D`.

    Shapes:
        as :class:`ConvBlock2D`.

    References:
        Howard et al., "MobileNets", arXiv:1704.04861, section 3.1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm: str = "batch",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.depthwise = ConvBlock2D(
            in_channels,
            in_channels,
            kernel_size,
            stride=stride,
            dilation=dilation,
            groups=in_channels,
            norm=norm,
            activation=activation,
        )
        self.pointwise = ConvBlock2D(in_channels, out_channels, 1, norm=norm, activation=activation)

    def forward(self, image: Tensor) -> Tensor:
        """Return the block's output."""
        return self.pointwise(self.depthwise(image))
