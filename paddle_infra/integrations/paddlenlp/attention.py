"""The fused form of ``paddle.nn.MultiHeadAttention``."""

from __future__ import annotations

from typing import Any

from paddle import Tensor
from paddle.nn.layer.transformer import _convert_attention_mask

from paddle_infra import ops
from paddle_infra.integrations.paddlenlp.fused import Fused


class FusedAttention(Fused):
    """Attention whose scores are never stored: :func:`paddle_infra.ops.attention`.

    Masks mean what they mean in Paddle: int and bool ones become 0 and -1e9, float ones are added. One difference: a
    row that -infinity hides completely gives zeros here and NaN in Paddle.
    """

    operators = "ops.attention"
    unless = "the weights (output_attentions=True) or a cache is asked for, or attention dropout is 1"

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        attn_mask: Tensor | None = None,
        cache: Any = None,
    ) -> Any:
        """Return what ``paddle.nn.MultiHeadAttention`` returns."""
        if cache is not None or self.need_weights or not 0.0 <= self.dropout < 1.0:
            return type(self).original.forward(self, query, key, value, attn_mask, cache)
        key = query if key is None else key
        value = query if value is None else value
        heads = [0, 0, self.num_heads, self.head_dim]
        context = ops.attention(
            self.q_proj(query).reshape(heads),
            self.k_proj(key).reshape(heads),
            self.v_proj(value).reshape(heads),
            bias=_convert_attention_mask(attn_mask, query.dtype),
            dropout_p=self.dropout,
            training=self.training,
        )
        return self.out_proj(context.flatten(2))
