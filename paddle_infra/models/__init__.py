"""Whole networks, with pretrained weights."""

from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.bert import BertForSequenceClassification, BertForTokenClassification, BertModel
from paddle_infra.models.bert_config import BertConfig
from paddle_infra.models.bilstm_crf import BiLSTMCRF, BiLSTMCRFConfig, CharacterCNN
from paddle_infra.models.config import ModelConfig
from paddle_infra.models.pretrained import LoadReport
from paddle_infra.models.resnet import ResNet, ResNetConfig
from paddle_infra.models.text_cnn import TextCNN, TextCNNConfig

__all__ = [
    "BertConfig",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "BiLSTMCRF",
    "BiLSTMCRFConfig",
    "CharacterCNN",
    "LoadReport",
    "ModelConfig",
    "PretrainedModel",
    "ResNet",
    "ResNetConfig",
    "TextCNN",
    "TextCNNConfig",
]
