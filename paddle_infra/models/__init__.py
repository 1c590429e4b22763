"""Whole networks, with pretrained weights."""

from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.bert import BertForSequenceClassification, BertForTokenClassification, BertModel
from paddle_infra.models.bert_config import BertConfig
from paddle_infra.models.causal_language_model import CausalLanguageModel, CausalLanguageModelConfig
from paddle_infra.models.config import ModelConfig
from paddle_infra.models.decoding_step import DecodingStep, EncodingStep
from paddle_infra.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from paddle_infra.models.image_to_text import ImageToText, ImageToTextConfig
from paddle_infra.models.pretrained import LoadReport
from paddle_infra.models.text_decoder import TextDecoder, TextDecoderConfig
from paddle_infra.models.vit import ViTConfig, ViTEncoder, ViTForImageClassification, ViTModel

__all__ = [
    "BertConfig",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "CausalLanguageModel",
    "CausalLanguageModelConfig",
    "DecodingStep",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "EncodingStep",
    "ImageToText",
    "ImageToTextConfig",
    "LoadReport",
    "ModelConfig",
    "PretrainedModel",
    "TextDecoder",
    "TextDecoderConfig",
    "ViTConfig",
    "ViTEncoder",
    "ViTForImageClassification",
    "ViTModel",
]
