"""Heads: logits for inference, a loss for training."""

from paddle_infra.nn.heads.classification import (
    FocalClassificationHead,
    SequenceClassificationHead,
    TokenClassificationHead,
)
from paddle_infra.nn.heads.margin import MarginHead
from paddle_infra.nn.heads.multi_label import MultiLabelHead
from paddle_infra.nn.heads.ordinal import OrdinalHead
from paddle_infra.nn.heads.regression import RegressionHead
from paddle_infra.nn.heads.span import SpanHead, Spans

__all__ = [
    "FocalClassificationHead",
    "MarginHead",
    "MultiLabelHead",
    "OrdinalHead",
    "RegressionHead",
    "SequenceClassificationHead",
    "SpanHead",
    "Spans",
    "TokenClassificationHead",
]
