"""RMS norm as a Layer, and a norm by its name."""

from __future__ import annotations

from typing import Literal

from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.checks import check_choice, check_positive

NormName = Literal["layer", "rms"]


class RMSNorm(nn.Layer):
    r"""Divide each row by its root mean square: :math:`x / \sqrt{\mathrm{mean}(x^2) + \epsilon} \cdot w`.

    Args:
        hidden_size: features :math:`D` of a row.
        epsilon: added to the mean square.

    Shapes:
        ``[..., hidden_size]`` to the same; parameter ``weight [hidden_size]``, ones at first. Computed by
        :func:`paddle_infra.ops.add_norm`.

    References:
        Zhang and Sennrich, arXiv:1910.07467; without its bias, and over all features.
    """

    bias = None

    def __init__(self, hidden_size: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        check_positive("hidden_size", hidden_size)
        self.epsilon = epsilon
        self.weight = self.create_parameter([hidden_size], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized rows."""
        return ops.add_norm(x, None, self.weight, norm="rms", epsilon=self.epsilon, training=self.training)


def new_norm(norm: NormName, hidden_size: int, epsilon: float) -> nn.Layer:
    """Return a ``paddle.nn.LayerNorm`` or an :class:`RMSNorm`.

    Raises:
        InvalidInputError: ``norm`` names neither.
    """
    check_choice("norm", norm, ("layer", "rms"))
    if norm == "rms":
        return RMSNorm(hidden_size, epsilon)
    return nn.LayerNorm(hidden_size, epsilon=epsilon)
