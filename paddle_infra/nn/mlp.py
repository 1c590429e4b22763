"""The perceptron of a Transformer layer, plain or gated."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.checks import check_positive
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.linear import Linear
from paddle_infra.ops.linear import ActivationName

# What checkpoints call activations, and what paddle_infra.ops.linear does.
_ACTIVATIONS: Mapping[str, ActivationName] = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "relu": "relu",
        "silu": "silu",
        "swiglu": "swiglu",
        "geglu": "none",
    }
)
_GATED = ("swiglu", "geglu")


class _GatedGelu(Linear):
    """``gelu(z₁) · z₂`` of the two halves of the columns: parameters as of :class:`Linear`."""

    def forward(self, x: Tensor) -> Tensor:
        gate, value = super().forward(x).chunk(2, axis=-1)
        return F.gelu(gate) * value


def activated_linear(
    in_features: int, out_features: int, activation: str, *, use_bias: bool = True
) -> Linear:
    """Return a linear layer and activation with ``out_features`` results, from twice as many columns if gated.

    Raises:
        InvalidInputError: the activation is unknown.
    """
    if activation not in _ACTIVATIONS:
        raise InvalidInputError(f"activation must be one of {list(_ACTIVATIONS)}, got {activation!r}")
    columns = 2 * out_features if activation in _GATED else out_features
    layer = _GatedGelu if activation == "geglu" else Linear
    return layer(in_features, columns, _ACTIVATIONS[activation], bias_attr=None if use_bias else False)


class MLP(nn.Layer):
    r"""Two linear layers with an activation between them, :math:`f(x W_1 + b_1)\, W_2 + b_2`.

    Args:
        hidden_size: width of the input.
        intermediate_size: width between the layers.
        activation: ``"gelu"`` (exact, with erf), ``"gelu_new"`` (tanh approximation), ``"relu"``, ``"silu"``; or
            gated, :math:`f(z_1) \cdot z_2` of the two halves of :math:`z = x W_1 + b_1`, which has twice the columns:
            ``"swiglu"`` (SiLU) or ``"geglu"`` (exact GELU).
        output_size: width of the result; None: ``hidden_size``.
        dropout: dropout probability after the activation.
        use_bias: give the linear layers a bias.

    Shapes:
        ``[..., hidden_size]`` to ``[..., output_size]``; sublayers ``intermediate`` and ``output``.

    References:
        Vaswani et al., arXiv:1706.03762, section 3.3; gates, arXiv:2002.05202.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: str = "gelu",
        *,
        output_size: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
    ) -> None:
        super().__init__()
        output_size = hidden_size if output_size is None else output_size
        sizes = {
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "output_size": output_size,
        }
        for name, size in sizes.items():
            check_positive(name, size)
        self.intermediate = activated_linear(hidden_size, intermediate_size, activation, use_bias=use_bias)
        self.output = Linear(intermediate_size, output_size, bias_attr=None if use_bias else False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return the perceptron's output."""
        inner = self.intermediate(x)
        if self.dropout:
            inner = F.dropout(inner, self.dropout, training=self.training)
        return self.output(inner)
