"""Reusable Layers, made of the operators in :mod:`paddle_infra.ops`."""

from paddle_infra.nn.attention import MultiHeadAttention, key_padding_mask
from paddle_infra.nn.embedding import TransformerEmbedding
from paddle_infra.nn.heads import SequenceClassificationHead, TokenClassificationHead
from paddle_infra.nn.linear import Linear
from paddle_infra.nn.pooling import cls_pool, mean_pool
from paddle_infra.nn.transformer import TransformerEncoder, TransformerEncoderLayer

__all__ = [
    "Linear",
    "MultiHeadAttention",
    "SequenceClassificationHead",
    "TokenClassificationHead",
    "TransformerEmbedding",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "cls_pool",
    "key_padding_mask",
    "mean_pool",
]
