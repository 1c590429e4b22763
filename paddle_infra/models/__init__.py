"""Whole networks, with pretrained weights."""

from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.bert import BertForSequenceClassification, BertForTokenClassification, BertModel
from paddle_infra.models.bert_config import BertConfig
from paddle_infra.models.bert_masked_lm import BertForMaskedLM
from paddle_infra.models.bert_question_answering import BertForQuestionAnswering
from paddle_infra.models.bilstm_crf import BiLSTMCRF, BiLSTMCRFConfig, CharacterCNN
from paddle_infra.models.causal_language_model import CausalLanguageModel, CausalLanguageModelConfig
from paddle_infra.models.config import ModelConfig
from paddle_infra.models.decoding_step import DecodingStep, EncodingStep
from paddle_infra.models.deepfm import DeepFM, DeepFMConfig
from paddle_infra.models.din import DIN, DINConfig
from paddle_infra.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from paddle_infra.models.ft_transformer import FTTransformer, FTTransformerConfig
from paddle_infra.models.image_to_text import ImageToText, ImageToTextConfig
from paddle_infra.models.pretrained import LoadReport
from paddle_infra.models.resnet import ResNet, ResNetConfig
from paddle_infra.models.sentence_encoder import SentenceEncoder
from paddle_infra.models.table import TableConfig, TableModel
from paddle_infra.models.tabular import TabularConfig, TabularModel
from paddle_infra.models.text_cnn import TextCNN, TextCNNConfig
from paddle_infra.models.text_decoder import TextDecoder, TextDecoderConfig
from paddle_infra.models.two_tower import FeaturesConfig, TwoTowerConfig, TwoTowerModel
from paddle_infra.models.vit import ViTConfig, ViTEncoder, ViTForImageClassification, ViTModel

__all__ = [
    "DIN",
    "BertConfig",
    "BertForMaskedLM",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "BiLSTMCRF",
    "BiLSTMCRFConfig",
    "CausalLanguageModel",
    "CausalLanguageModelConfig",
    "CharacterCNN",
    "DINConfig",
    "DecodingStep",
    "DeepFM",
    "DeepFMConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "EncodingStep",
    "FTTransformer",
    "FTTransformerConfig",
    "FeaturesConfig",
    "ImageToText",
    "ImageToTextConfig",
    "LoadReport",
    "ModelConfig",
    "PretrainedModel",
    "ResNet",
    "ResNetConfig",
    "SentenceEncoder",
    "TableConfig",
    "TableModel",
    "TabularConfig",
    "TabularModel",
    "TextCNN",
    "TextCNNConfig",
    "TextDecoder",
    "TextDecoderConfig",
    "TwoTowerConfig",
    "TwoTowerModel",
    "ViTConfig",
    "ViTEncoder",
    "ViTForImageClassification",
    "ViTModel",
]
