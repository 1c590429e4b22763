"""Residual networks for images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.checks import check_choice, check_number, check_positive, check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.config import ModelConfig
from paddle_infra.nn import BottleneckBlock2D, ConvBlock2D, ResidualBlock2D, SequenceClassificationHead

_BLOCKS = MappingProxyType({"basic": ResidualBlock2D, "bottleneck": BottleneckBlock2D})
# Table 1 of the paper.
_DEPTHS: Mapping[int, tuple[str, tuple[int, ...]]] = MappingProxyType(
    {
        18: ("basic", (2, 2, 2, 2)),
        34: ("basic", (3, 4, 6, 3)),
        50: ("bottleneck", (3, 4, 6, 3)),
        101: ("bottleneck", (3, 4, 23, 3)),
        152: ("bottleneck", (3, 8, 36, 3)),
    }
)


@dataclass(frozen=True)
class ResNetConfig(ModelConfig):
    """Sizes of a :class:`ResNet`; the defaults are ResNet-18's.

    ``stem`` is ``"large"`` (7 × 7 with stride 2 and a pooling: sides divided by 4 before the first stage) or
    ``"small"`` (3 × 3, for images of some tens of pixels). ``blocks`` counts the blocks of each stage and ``channels``
    gives their width; every stage but the first halves the sides. ``norm`` as in :class:`paddle_infra.nn.ConvBlock2D`;
    ``labels`` are the class names in order of their ids.
    """

    model_type = "resnet"
    in_channels: int = 3
    block: str = "basic"
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    channels: tuple[int, ...] = (64, 128, 256, 512)
    stem: str = "large"
    norm: str = "batch"
    dropout: float = 0.0
    labels: tuple[str, ...] = ()

    @classmethod
    def of_depth(cls, depth: int, **changes: Any) -> ResNetConfig:
        """Return the configuration of ResNet-18, -34, -50, -101 or -152; ``changes`` are other fields.

        Raises:
            InvalidInputError: another depth.
        """
        if depth not in _DEPTHS:
            raise InvalidInputError(f"depth: expected one of {', '.join(map(str, _DEPTHS))}, got {depth!r}")
        block, blocks = _DEPTHS[depth]
        return dataclasses.replace(cls(block=block, blocks=blocks), **changes)

    def __post_init__(self) -> None:
        check_choice("block", self.block, tuple(_BLOCKS))
        check_choice("stem", self.stem, ("large", "small"))
        check_number("dropout", self.dropout, 0.0, 1.0)
        if not self.blocks or len(self.blocks) != len(self.channels):
            raise InvalidInputError(
                f"blocks and channels: expected a number for each stage, got {self.blocks} and {self.channels}"
            )
        for name in ("blocks", "channels"):
            for number in getattr(self, name):
                check_positive(name, number)


class ResNet(PretrainedModel):
    """A stem, stages of residual blocks, the mean over all positions, a linear head.

    Shapes:
        image float32 ``[batch_size, in_channels, height, width]``; logits ``[batch_size, num_labels]``; labels int64
        ``[batch_size]``.

    References:
        He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 3 and table 1; see
        :class:`paddle_infra.nn.ResidualBlock2D` and :class:`paddle_infra.nn.BottleneckBlock2D`. Initial weights:
        arXiv:1502.01852, section 2.2, of the backward pass.
    """

    config_class = ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        if len(config.labels) < 2:
            raise InvalidInputError(f"labels: expected at least 2 names, got {list(config.labels)}")
        super().__init__(config)
        block = _BLOCKS[config.block]
        width = config.channels[0]
        is_large = config.stem == "large"
        self.stem = ConvBlock2D(
            config.in_channels, width, 7 if is_large else 3, stride=2 if is_large else 1, norm=config.norm
        )
        stages = []
        for index, (count, channels) in enumerate(zip(config.blocks, config.channels, strict=True)):
            blocks = []
            for number in range(count):
                stride = 2 if index and not number else 1
                blocks.append(block(width, channels, stride=stride, norm=config.norm))
                width = blocks[-1].out_channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.LayerList(stages)
        self.head = SequenceClassificationHead(width, len(config.labels), config.dropout)
        self._initialize()

    def _initialize(self) -> None:
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D):
                fan_out = layer.weight.shape[0] * layer.weight.shape[2] * layer.weight.shape[3]
                nn.initializer.Normal(0.0, math.sqrt(2.0 / fan_out))(layer.weight)

    def feature_maps(self, image: Tensor) -> list[Tensor]:
        """Return the result of every stage, ``[batch_size, channels, height, width]`` each."""
        check_tensor("image", image, ("float32", "float64"))
        check_shape(
            "image", image, [-1, self.config.in_channels, -1, -1], "[batch_size, channels, height, width]"
        )
        image = self.stem(image)
        if self.config.stem == "large":
            image = F.max_pool2d(image, 3, stride=2, padding=1)
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return maps

    def features(self, image: Tensor) -> Tensor:
        """Return what the head sees: the mean of the last stage over all positions, ``[batch_size, channels]``."""
        return self.feature_maps(image)[-1].mean(axis=[2, 3])

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.features(image))

    def loss(self, image: Tensor, *, labels: Tensor, **options: Any) -> Tensor:
        """Return the mean cross entropy (0-D); ``options`` as in :func:`paddle_infra.ops.linear_cross_entropy`."""
        return self.head.loss(self.features(image), labels, **options)
