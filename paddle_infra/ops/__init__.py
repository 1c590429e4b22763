"""Operators: pure functions of tensors, each with a compiled and a plain implementation.

The compiled ones are registered with Paddle when ``paddle_infra`` is imported. If they cannot be loaded,
plain Paddle runs in their place and a warning says why.
"""

from __future__ import annotations

from paddle_infra._core.matmul_precision import get_matmul_precision, set_matmul_precision
from paddle_infra.ops._select import explain_dispatch, implementation
from paddle_infra.ops.add_norm import add_norm, add_norm_with_sum
from paddle_infra.ops.attention import attention, attention_with_lse
from paddle_infra.ops.attention_decode import attention_decode
from paddle_infra.ops.attention_varlen import attention_varlen
from paddle_infra.ops.embedding_norm import embedding_norm
from paddle_infra.ops.linear import linear, pack_weight
from paddle_infra.ops.linear_binary_cross_entropy import linear_binary_cross_entropy
from paddle_infra.ops.linear_cross_entropy import linear_cross_entropy
from paddle_infra.ops.linear_focal import linear_focal
from paddle_infra.ops.linear_int8 import linear_int8, quantize_weight
from paddle_infra.ops.linear_topk import linear_topk, linear_topk_log_prob

__all__ = [
    "add_norm",
    "add_norm_with_sum",
    "attention",
    "attention_decode",
    "attention_varlen",
    "attention_with_lse",
    "embedding_norm",
    "explain_dispatch",
    "get_matmul_precision",
    "implementation",
    "linear",
    "linear_binary_cross_entropy",
    "linear_cross_entropy",
    "linear_focal",
    "linear_int8",
    "linear_topk",
    "linear_topk_log_prob",
    "pack_weight",
    "quantize_weight",
    "set_matmul_precision",
]
