"""Reusable Layers, made of the operators in :mod:`paddle_infra.ops`."""

from paddle_infra.nn.attention import MultiHeadAttention, key_padding_mask
from paddle_infra.nn.embedding import TransformerEmbedding
from paddle_infra.nn.heads import (
    FocalClassificationHead,
    MarginHead,
    MultiLabelHead,
    OrdinalHead,
    RegressionHead,
    SequenceClassificationHead,
    SpanHead,
    Spans,
    TokenClassificationHead,
)
from paddle_infra.nn.linear import Linear
from paddle_infra.nn.losses import (
    BatchHardTripletLoss,
    ContrastiveLoss,
    CoSENTLoss,
    CosineEmbeddingLoss,
    SupervisedContrastiveLoss,
    TripletLoss,
)
from paddle_infra.nn.pooling import cls_pool, mean_pool
from paddle_infra.nn.transformer import TransformerEncoder, TransformerEncoderLayer

__all__ = [
    "BatchHardTripletLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "CosineEmbeddingLoss",
    "FocalClassificationHead",
    "Linear",
    "MarginHead",
    "MultiHeadAttention",
    "MultiLabelHead",
    "OrdinalHead",
    "RegressionHead",
    "SequenceClassificationHead",
    "SpanHead",
    "Spans",
    "SupervisedContrastiveLoss",
    "TokenClassificationHead",
    "TransformerEmbedding",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "TripletLoss",
    "cls_pool",
    "key_padding_mask",
    "mean_pool",
]
