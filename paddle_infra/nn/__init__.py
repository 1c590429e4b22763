"""Reusable Layers, made of the operators in :mod:`paddle_infra.ops`."""

from paddle_infra.nn.attention import MultiHeadAttention, key_padding_mask
from paddle_infra.nn.cache import DecoderCache, DecoderLayerCache, KeyValueCache, MemoryCache
from paddle_infra.nn.decoder import TransformerDecoder, TransformerDecoderLayer
from paddle_infra.nn.drop_path import DropPath
from paddle_infra.nn.embedding import TokenEmbedding, TransformerEmbedding
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
from paddle_infra.nn.mlp import MLP
from paddle_infra.nn.norm import RMSNorm
from paddle_infra.nn.pooling import cls_pool, mean_pool
from paddle_infra.nn.positions import LearnedPositions, SinusoidalPositions, alibi_slopes
from paddle_infra.nn.rotary import RotaryEmbedding
from paddle_infra.nn.transformer import TransformerEncoder, TransformerEncoderLayer

__all__ = [
    "MLP",
    "BatchHardTripletLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "CosineEmbeddingLoss",
    "DecoderCache",
    "DecoderLayerCache",
    "DropPath",
    "FocalClassificationHead",
    "KeyValueCache",
    "LearnedPositions",
    "Linear",
    "MarginHead",
    "MemoryCache",
    "MultiHeadAttention",
    "MultiLabelHead",
    "OrdinalHead",
    "RMSNorm",
    "RegressionHead",
    "RotaryEmbedding",
    "SequenceClassificationHead",
    "SinusoidalPositions",
    "SpanHead",
    "Spans",
    "SupervisedContrastiveLoss",
    "TokenClassificationHead",
    "TokenEmbedding",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEmbedding",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "TripletLoss",
    "alibi_slopes",
    "cls_pool",
    "key_padding_mask",
    "mean_pool",
]
