"""Whole networks, with pretrained weights."""

from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.bert import BertForSequenceClassification, BertForTokenClassification, BertModel
from paddle_infra.models.bert_config import BertConfig
from paddle_infra.models.config import ModelConfig
from paddle_infra.models.pretrained import LoadReport

__all__ = [
    "BertConfig",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "LoadReport",
    "ModelConfig",
    "PretrainedModel",
]
