"""Whole networks, with pretrained weights."""

from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.bert import BertForSequenceClassification, BertForTokenClassification, BertModel
from paddle_infra.models.bert_config import BertConfig
from paddle_infra.models.bert_masked_lm import BertForMaskedLM
from paddle_infra.models.bert_question_answering import BertForQuestionAnswering
from paddle_infra.models.config import ModelConfig
from paddle_infra.models.pretrained import LoadReport
from paddle_infra.models.sentence_encoder import SentenceEncoder

__all__ = [
    "BertConfig",
    "BertForMaskedLM",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "LoadReport",
    "ModelConfig",
    "PretrainedModel",
    "SentenceEncoder",
]
