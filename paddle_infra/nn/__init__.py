"""Reusable Layers, made of the operators in :mod:`paddle_infra.ops`."""

from paddle_infra.nn.attention import MultiHeadAttention, key_padding_mask
from paddle_infra.nn.cache import DecoderCache, DecoderLayerCache, KeyValueCache, MemoryCache
from paddle_infra.nn.conv import ConvBlock1D, ConvBlock2D, SeparableConv1D, SeparableConv2D
from paddle_infra.nn.conv_residual import BottleneckBlock2D, ResidualBlock2D
from paddle_infra.nn.crf import CRF
from paddle_infra.nn.decoder import TransformerDecoder, TransformerDecoderLayer
from paddle_infra.nn.dense_stack import DenseStack, Dice
from paddle_infra.nn.drop_path import DropPath
from paddle_infra.nn.embedding import TokenEmbedding, TransformerEmbedding
from paddle_infra.nn.features import BagEmbedding, CategoryEmbedding, NumberScaling, TableFeatures
from paddle_infra.nn.fusion import BilinearFusion, ConcatFusion, CrossAttentionFusion, GatedFusion
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
from paddle_infra.nn.padding import length_mask
from paddle_infra.nn.pooling import AttentionPooling, Pooling, cls_pool, last_pool, max_pool, mean_pool
from paddle_infra.nn.positions import LearnedPositions, SinusoidalPositions, alibi_slopes
from paddle_infra.nn.recurrent import GRU, LSTM, RNN
from paddle_infra.nn.rotary import RotaryEmbedding
from paddle_infra.nn.tag_constraints import TagConstraints, tag_constraints
from paddle_infra.nn.transformer import TransformerEncoder, TransformerEncoderLayer

__all__ = [
    "CRF",
    "GRU",
    "LSTM",
    "MLP",
    "RNN",
    "AttentionPooling",
    "BagEmbedding",
    "BatchHardTripletLoss",
    "BilinearFusion",
    "BottleneckBlock2D",
    "CategoryEmbedding",
    "CoSENTLoss",
    "ConcatFusion",
    "ContrastiveLoss",
    "ConvBlock1D",
    "ConvBlock2D",
    "CosineEmbeddingLoss",
    "CrossAttentionFusion",
    "DecoderCache",
    "DecoderLayerCache",
    "DenseStack",
    "Dice",
    "DropPath",
    "FocalClassificationHead",
    "GatedFusion",
    "KeyValueCache",
    "LearnedPositions",
    "Linear",
    "MarginHead",
    "MemoryCache",
    "MultiHeadAttention",
    "MultiLabelHead",
    "NumberScaling",
    "OrdinalHead",
    "Pooling",
    "RMSNorm",
    "RegressionHead",
    "ResidualBlock2D",
    "RotaryEmbedding",
    "SeparableConv1D",
    "SeparableConv2D",
    "SequenceClassificationHead",
    "SinusoidalPositions",
    "SpanHead",
    "Spans",
    "SupervisedContrastiveLoss",
    "TableFeatures",
    "TagConstraints",
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
    "last_pool",
    "length_mask",
    "max_pool",
    "mean_pool",
    "tag_constraints",
]
