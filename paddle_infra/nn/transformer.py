"""Transformer encoder: layer and stack."""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

from paddle_infra._core.checks import check_positive
from paddle_infra.nn.attention import MultiHeadAttention
from paddle_infra.nn.linear import Linear
from paddle_infra.nn.mlp import activated_linear
from paddle_infra.nn.norm import NormName, new_norm
from paddle_infra.nn.residual import ResidualLayer, depth_rates


class TransformerEncoderLayer(ResidualLayer):
    """Self-attention and a two-layer perceptron, each with a residual and a norm after (post-norm) or before it.

    Args:
        hidden_size: width of input and output.
        num_heads: attention heads.
        intermediate_size: width of the perceptron's inner layer.
        activation: ``"gelu"`` (exact, with erf), ``"gelu_new"`` (tanh approximation), ``"relu"``, ``"silu"``, or
            gated: ``"swiglu"``, ``"geglu"`` (see :class:`MLP`).
        dropout: dropout probability after each sub-layer.
        attention_dropout: dropout probability on the attention weights.
        epsilon: added to the variance or mean square in the norms.
        norm: ``"layer"`` or ``"rms"``.
        norm_first: put the norms before the sub-layers (pre-norm).
        drop_path: probability of leaving a sub-layer out for a sample in training (see :class:`DropPath`).
        use_bias: give the linear layers a bias.
        attention: further arguments of :class:`MultiHeadAttention`: ``num_kv_heads``, ``head_dim``, ``causal``,
            ``window``, ``rotary``, ``alibi``.

    Shapes:
        hidden ``[batch_size, seq_len, hidden_size]`` to the same; bias and ``kv_lengths`` as in
        :class:`MultiHeadAttention`.

    References:
        Devlin et al., "BERT", arXiv:1810.04805; Vaswani et al., arXiv:1706.03762, section 3.1; pre-norm,
        arXiv:2002.04745.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        activation: str = "gelu",
        *,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        epsilon: float = 1e-12,
        norm: NormName = "layer",
        norm_first: bool = False,
        drop_path: float = 0.0,
        use_bias: bool = True,
        **attention: Any,
    ) -> None:
        super().__init__(
            hidden_size,
            dropout=dropout,
            epsilon=epsilon,
            norm=norm,
            norm_first=norm_first,
            drop_path=drop_path,
        )
        self.attention = MultiHeadAttention(
            hidden_size, num_heads, attention_dropout, use_bias=use_bias, **attention
        )
        self.attention_norm = self._new_norm()
        self.intermediate = activated_linear(hidden_size, intermediate_size, activation, use_bias=use_bias)
        self.output = Linear(intermediate_size, hidden_size, bias_attr=None if use_bias else False)
        self.output_norm = self._new_norm()

    def forward(
        self, hidden: Tensor, bias: Tensor | None = None, *, kv_lengths: Tensor | None = None
    ) -> Tensor:
        """Return the layer's output."""
        branch = self.attention(self._begin(hidden, self.attention_norm), bias, kv_lengths=kv_lengths)
        branch, stream = self._go_on(branch, hidden, self.attention_norm, self.output_norm)
        return self._end(self.output(self.intermediate(branch)), stream, self.output_norm)


class TransformerEncoder(nn.Layer):
    """A stack of :class:`TransformerEncoderLayer`; arguments and shapes as there.

    In pre-norm a last norm, ``norm``, follows. ``drop_path`` is the last layer's probability; those before have
    evenly less, the first 0.
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        *,
        drop_path: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        check_positive("num_layers", num_layers)
        self.layers = nn.LayerList(
            [
                TransformerEncoderLayer(hidden_size, num_heads, intermediate_size, drop_path=rate, **options)
                for rate in depth_rates(drop_path, num_layers)
            ]
        )
        self.norm = final_norm(self.layers[0])

    def forward(
        self, hidden: Tensor, bias: Tensor | None = None, *, kv_lengths: Tensor | None = None
    ) -> Tensor:
        """Return the last layer's output, in pre-norm its norm."""
        for layer in self.layers:
            hidden = layer(hidden, bias, kv_lengths=kv_lengths)
        return hidden if self.norm is None else self.norm(hidden)


def final_norm(layer: ResidualLayer) -> nn.Layer | None:
    """Return the norm after a stack of such layers: in post-norm, none."""
    return new_norm(layer.norm_kind, layer.hidden_size, layer.epsilon) if layer.norm_first else None
