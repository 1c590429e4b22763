"""The Vision Transformer: an encoder of images, and its classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.jit.marker import unified

from paddle_infra._core.checks import UNKNOWN, check_positive, check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError, UnsupportedError, WeightError
from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.config import ModelConfig
from paddle_infra.models.vit_names import checkpoint_name, is_transposed
from paddle_infra.models.vit_positions import resized_positions
from paddle_infra.nn import SequenceClassificationHead, TransformerEncoder

_Config = TypeVar("_Config", bound="ViTConfig")


@dataclass(frozen=True)
class ViTConfig(ModelConfig):
    """Sizes and rates of a Vision Transformer, in the words of the field's ``config.json``; defaults: ViT-base/16.

    ``labels`` are the class names of a classifier, in order of their ids (``id2label`` in the file).
    """

    model_type = "vit"
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "num_channels"):
            check_positive(name, getattr(self, name))
        if self.image_size % self.patch_size:
            raise InvalidInputError(
                f"image_size: expected a multiple of patch_size={self.patch_size}, got {self.image_size}"
            )

    @property
    def grid_size(self) -> int:
        """Patches in a row, and in a column, of an image of ``image_size``."""
        return self.image_size // self.patch_size

    @classmethod
    def from_dict(cls: type[_Config], values: Mapping[str, Any], where: str = "configuration") -> _Config:
        """Return the configuration that the content of a ``config.json`` describes.

        Raises:
            WeightError: it describes another kind of model, or a value cannot be used.
        """
        if values.get("qkv_bias", True) is not True:
            raise WeightError(f"{where}: expected qkv_bias true, got {values['qkv_bias']!r}")
        return super().from_dict({**values, "labels": _labels(values)}, where)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a ``config.json``."""
        values = super().to_dict()
        labels = values.pop("labels")
        if labels:  # without any the field reads "two labels", not "none"
            values["id2label"] = {str(index): name for index, name in enumerate(labels)}
            values["label2id"] = {name: index for index, name in enumerate(labels)}
        return values | {"qkv_bias": True}


def _labels(values: Mapping[str, Any]) -> list[str]:
    """Return class names; the field leaves them out if there are two without names."""
    if names := values.get("id2label"):
        return [names[key] for key in sorted(names, key=int)]
    architectures = values.get("architectures") or [""]
    return ["LABEL_0", "LABEL_1"] if architectures[0].endswith("ForImageClassification") else []


class ViTEncoder(nn.Layer):
    """Patches, class token, positions and a pre-norm Transformer: the part that all ViT models share.

    Shapes:
        pixel_values float32 ``[B, num_channels, height, width]``, sizes multiples of ``patch_size``, to
        ``[B, 1 + patches, hidden_size]``: the class token's state, then the patches', row by row. For another size
        than ``image_size`` the positions are interpolated (bicubic).
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, normal = config.hidden_size, nn.initializer.TruncatedNormal(0.0, config.initializer_range)
        self.config = config
        self.patch = nn.Conv2D(
            config.num_channels,
            width,
            config.patch_size,
            config.patch_size,
            weight_attr=paddle.ParamAttr(initializer=normal),
        )
        self.class_token = self.create_parameter([1, 1, width], default_initializer=normal)
        self.positions = self.create_parameter(
            [1, 1 + config.grid_size**2, width], default_initializer=normal
        )
        self.stack = TransformerEncoder(
            config.num_hidden_layers,
            width,
            config.num_attention_heads,
            config.intermediate_size,
            activation=config.hidden_act,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            epsilon=config.layer_norm_eps,
            norm_first=True,
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the hidden states."""
        check_tensor("pixel_values", pixel_values, ("float32", "float64", "float16", "bfloat16"))
        check_shape(
            "pixel_values",
            pixel_values,
            [UNKNOWN, self.config.num_channels, UNKNOWN, UNKNOWN],
            "[batch_size, num_channels, height, width]",
        )
        positions = _positions_of(pixel_values, self.positions, self.config)
        patches = self.patch(pixel_values).flatten(2).transpose([0, 2, 1])
        first = self.class_token + paddle.zeros_like(patches[:, :1])  # one for each image
        hidden = paddle.concat([first, patches], axis=1) + positions
        dropout = self.config.hidden_dropout_prob
        return self.stack(F.dropout(hidden, dropout, training=self.training) if dropout else hidden)


def _positions_of(pixel_values: Tensor, positions: Tensor, config: ViTConfig) -> Tensor:
    height, width = pixel_values.shape[2:]
    if UNKNOWN in (height, width):
        raise UnsupportedError(
            "pixel_values: expected a height and width that are known when the program is made, because the "
            "positions depend on them, got unknown ones"
        )
    patch = config.patch_size
    if height % patch or width % patch or 0 in (height, width):
        raise InvalidInputError(
            f"pixel_values: expected height and width to be multiples of {patch}, got {height} and {width}"
        )
    return resized_positions(positions, config.grid_size, height // patch, width // patch)


# Paddle's graph capture shall call it as it is: it looks at a shape.
unified(_positions_of)


class _Pretrained(PretrainedModel):
    """Names in checkpoints and initial weights."""

    config_class = ViTConfig
    ignores_unexpected = True  # a pooler, or a head of another task

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.encoder = ViTEncoder(config)

    def _initialize(self) -> None:
        normal = nn.initializer.TruncatedNormal(0.0, self.config.initializer_range)
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                normal(layer.weight)
                if layer.bias is not None:
                    nn.initializer.Constant(0.0)(layer.bias)

    def checkpoint_names(self, name: str) -> tuple[str, ...]:
        """Return the field's name of a parameter, and the one in a file of the bare encoder."""
        full = checkpoint_name(name)
        return full, full.removeprefix("vit.")

    def is_transposed(self, name: str) -> bool:
        """Whether the parameter is the weight of a Linear layer."""
        return is_transposed(name)

    def adapted(self, name: str, value: np.ndarray, shape: list[int]) -> np.ndarray:
        """Interpolate the positions of a file that was made for another size of image."""
        if name != "encoder.positions" or value.ndim != 3 or list(value.shape) == shape:
            return value
        grid = round((value.shape[1] - 1) ** 0.5)
        if grid**2 + 1 != value.shape[1]:
            return value
        size = self.config.grid_size
        return resized_positions(paddle.to_tensor(value), grid, size, size).numpy()


class ViTModel(_Pretrained):
    """Vision Transformer encoder of images; shapes as in :class:`ViTEncoder`.

    Reads and writes files of Hugging Face's ``ViTModel`` and ``ViTForImageClassification``; a pooler in them is not
    used.

    References:
        Dosovitskiy et al., arXiv:2010.11929, section 3; interpolated positions, section 3.2.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self._initialize()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the hidden states after the last norm."""
        return self.encoder(pixel_values)


class ViTForImageClassification(_Pretrained):
    """Vision Transformer and a linear head on the class token.

    Shapes:
        pixel_values as in :class:`ViTEncoder` to logits ``[B, num_labels]``; labels int64 ``[B]``.
    """

    new_parts = ("classifier.",)

    def __init__(self, config: ViTConfig) -> None:
        if len(config.labels) < 2:
            raise InvalidInputError(f"a classifier needs at least 2 labels, got {list(config.labels)}")
        super().__init__(config)
        self.head = SequenceClassificationHead(config.hidden_size, len(config.labels), 0.0)
        self._initialize()

    def features(self, pixel_values: Tensor) -> Tensor:
        """Return the class token's state ``[B, hidden_size]``."""
        return self.encoder(pixel_values)[:, 0]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.features(pixel_values))

    def loss(self, pixel_values: Tensor, labels: Tensor, **options: Any) -> Tensor:
        """Return the mean cross entropy over the labels that are not -100 (0-D); the logits are never stored.

        ``options`` go to :func:`paddle_infra.ops.linear_cross_entropy`, for instance ``label_smoothing=0.1``.
        """
        return self.head.loss(self.features(pixel_values), labels, **options)
