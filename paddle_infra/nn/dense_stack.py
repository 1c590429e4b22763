"""Fully connected layers on the features of a row, and the activation that adapts to its input."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.checks import check_choice, check_number, check_positive
from paddle_infra.nn.linear import Linear

_ACTIVATIONS = ("relu", "gelu", "silu", "dice")


class Dice(nn.Layer):
    r"""Activation between identity and :math:`\alpha x`, with the turning point at the mean of the data.

    :math:`p x + (1 - p) \alpha x` with :math:`p = \sigma((x - E[x]) / \sqrt{Var[x] + \epsilon})`, for each channel;
    :math:`\alpha` is learned, from 0. Mean and variance are those of the batch in training, and running ones
    (``mean``, ``variance``) in evaluation.

    Args:
        size: number of channels.
        epsilon: :math:`\epsilon`.
        momentum: what is kept of the running mean and variance in each step.

    Shapes:
        ``[..., size]`` to the same. With a mask ``[...]``, only what is not 0 there counts in mean and variance.

    References:
        Zhou et al., arXiv:1706.06978, section 5.3.
    """

    def __init__(self, size: int, *, epsilon: float = 1e-8, momentum: float = 0.9) -> None:
        super().__init__()
        check_positive("size", size)
        self.epsilon = check_number("epsilon", epsilon, 0.0)
        self.momentum = check_number("momentum", momentum, 0.0, 1.0)
        self.alpha = self.create_parameter([size], default_initializer=nn.initializer.Constant(0.0))
        self.register_buffer("mean", paddle.zeros([size]))
        self.register_buffer("variance", paddle.ones([size]))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the activated values."""
        mean, variance = self._of_batch(x, mask) if self.training else (self.mean, self.variance)
        share = F.sigmoid((x - mean) * paddle.rsqrt(variance + self.epsilon))
        return (share + (1.0 - share) * self.alpha) * x

    def _of_batch(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        axes = list(range(x.ndim - 1))
        if mask is None:
            mean = x.mean(axis=axes)
            variance = (x - mean).square().mean(axis=axes)
            self._remember(mean, variance)
            return mean, variance
        weight = (mask != 0).astype(x.dtype).unsqueeze(-1)
        count = weight.sum()
        mean = (x * weight).sum(axis=axes) / count.clip(min=1.0)
        variance = ((x - mean).square() * weight).sum(axis=axes) / count.clip(min=1.0)
        is_any = count > 0  # nothing to learn from a batch of nothing
        self._remember(
            paddle.where(is_any, mean, self.mean.astype(mean.dtype)),
            paddle.where(is_any, variance, self.variance.astype(variance.dtype)),
        )
        return mean, variance

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        # Without detach(): in a program that is an alias, and Paddle lets a later operator write into its memory.
        with paddle.no_grad():
            for buffer, value in ((self.mean, mean), (self.variance, variance)):
                new = self.momentum * buffer + (1.0 - self.momentum) * value.astype(buffer.dtype)
                paddle.assign(new, buffer)


class DenseStack(nn.Layer):
    """Linear layers, each with an activation and dropout after it.

    Args:
        in_size: width of the input.
        hidden_sizes: widths of the layers; none leaves the input as it is.
        activation: ``"relu"``, ``"gelu"``, ``"silu"`` or ``"dice"`` (:class:`Dice`).
        dropout: dropout probability after each layer.

    Shapes:
        ``[..., in_size]`` to ``[..., size]``, where the attribute ``size`` is the last width. The mask ``[...]`` is for
        :class:`Dice`.
    """

    def __init__(
        self, in_size: int, hidden_sizes: Sequence[int], activation: str = "relu", *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_choice("activation", activation, _ACTIVATIONS)
        sizes = [in_size, *hidden_sizes]
        for size in sizes:
            check_positive("sizes", size)
        self.size, self.dropout = sizes[-1], dropout
        fused: Any = "none" if activation == "dice" else activation
        self.layers = nn.LayerList([Linear(i, o, fused) for i, o in pairwise(sizes)])
        self.dice = nn.LayerList([Dice(size) for size in sizes[1:]]) if activation == "dice" else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the last layer's output."""
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if self.dice is not None:
                x = self.dice[index](x, mask)
            if self.dropout:
                x = F.dropout(x, self.dropout, training=self.training)
        return x
