"""Residual blocks of convolutions over images."""

from __future__ import annotations

from typing import ClassVar

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra.nn.conv import ConvBlock2D


class _Residual(nn.Layer):
    """``relu(f(x) + shortcut(x))``; the shortcut is a 1 × 1 convolution where the shape changes."""

    expansion: ClassVar[int]

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, norm: str = "batch") -> None:
        super().__init__()
        self.out_channels = channels * self.expansion
        self.shortcut = None
        if stride != 1 or in_channels != self.out_channels:
            self.shortcut = ConvBlock2D(
                in_channels, self.out_channels, 1, stride=stride, norm=norm, activation="none"
            )

    def _branch(self, image: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _branch")

    def forward(self, image: Tensor) -> Tensor:
        """Return the block's output."""
        shortcut = image if self.shortcut is None else self.shortcut(image)
        return F.relu(self._branch(image) + shortcut)


class ResidualBlock2D(_Residual):
    """Two 3 × 3 convolutions and a shortcut ("basic block").

    Args:
        in_channels: channels of the input.
        channels: channels of both convolutions and of the output.
        stride: step of the first convolution, and of the shortcut.
        norm: of :class:`ConvBlock2D`.

    Shapes:
        ``[batch_size, in_channels, height, width]`` to ``[batch_size, channels, ⌈height / stride⌉, ⌈width / stride⌉]``.

    References:
        He et al., "Deep Residual Learning", arXiv:1512.03385, section 3.3, shortcuts of option B.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, norm: str = "batch") -> None:
        super().__init__(in_channels, channels, stride=stride, norm=norm)
        self.conv1 = ConvBlock2D(in_channels, channels, 3, stride=stride, norm=norm)
        self.conv2 = ConvBlock2D(channels, channels, 3, norm=norm, activation="none")

    def _branch(self, image: Tensor) -> Tensor:
        return self.conv2(self.conv1(image))


class BottleneckBlock2D(_Residual):
    """Convolutions 1 × 1, 3 × 3 and 1 × 1 and a shortcut; four times as many channels come out.

    Args:
        in_channels: channels of the input.
        channels: channels of the first two convolutions; the output has four times as many.
        stride: step of the 3 × 3 convolution, and of the shortcut.
        norm: of :class:`ConvBlock2D`.

    Shapes:
        ``[batch_size, in_channels, height, width]`` to ``[batch_size, 4 * channels, ⌈height / stride⌉,
        ⌈width / stride⌉]``.

    References:
        He et al., arXiv:1512.03385, section 4.1; the stride is in the 3 × 3 convolution, not the first one, as in
        today's implementations ("v1.5").
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, norm: str = "batch") -> None:
        super().__init__(in_channels, channels, stride=stride, norm=norm)
        self.conv1 = ConvBlock2D(in_channels, channels, 1, norm=norm)
        self.conv2 = ConvBlock2D(channels, channels, 3, stride=stride, norm=norm)
        self.conv3 = ConvBlock2D(channels, self.out_channels, 1, norm=norm, activation="none")

    def _branch(self, image: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(image)))
