"""Every model of the package with inputs to export it with."""

from __future__ import annotations

import numpy as np
from paddle import nn

import paddle_infra as pi
from tests.export.small_models import spread
from tests.export.table_cases import BT, MASK, PIXELS, Row, Towers, floats, ids, language

models = pi.models
COLUMNS = {"categories": ids(4, 3, 2), "numbers": floats(3, 3)}
VIT = models.ViTConfig(
    image_size=12,
    patch_size=4,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    labels=("cat", "dog", "fish"),
)
DECODER = {"vocab_size": 20, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "intermediate_size": 24}
SOURCE = {"source_ids": ids(20, 3, 5), "target_ids": ids(20, 3, 4), "source_lengths": np.array([5, 2, 4])}


def translator() -> nn.Layer:
    config = models.EncoderDecoderConfig(**DECODER, num_encoder_layers=2, dropout=0.0, max_positions=70)
    return spread(models.EncoderDecoder(config))


def step(batch: int, room: int, memory: int) -> dict[str, np.ndarray]:
    return {
        "tokens": ids(20, batch, 1),
        "lengths": (np.arange(batch) + 2).astype("int32"),
        **{name: floats(2, batch, room, 4, 4) for name in ("keys", "values")},
        **{name: floats(2, batch, memory, 4, 4) for name in ("memory_keys", "memory_values")},
    }


def decoding_step() -> nn.Layer:
    return models.DecodingStep(translator().decoder)


def image_to_text() -> nn.Layer:
    text = models.TextDecoderConfig(**DECODER, dropout=0.0, max_positions=70)
    return spread(models.ImageToText(models.ImageToTextConfig(VIT, text)))


STATES = dict.fromkeys(("keys", "values"), "-bc") | dict.fromkeys(("memory_keys", "memory_values"), "-bm")

MODELS: dict[str, Row] = {
    "BertForMaskedLM": language(models.BertForMaskedLM),
    "BertForQuestionAnswering": language(models.BertForQuestionAnswering, 2),
    "BertForSequenceClassification": language(models.BertForSequenceClassification),
    "BertForTokenClassification": language(models.BertForTokenClassification),
    "BertModel": language(models.BertModel),
    "BiLSTMCRF": Row(
        lambda: spread(
            models.BiLSTMCRF(
                models.BiLSTMCRFConfig(
                    vocab_size=20, embedding_size=6, hidden_size=7, labels=("O", "B-A", "I-A")
                )
            )
        ),
        {"words": ids(20, 3, 5), **MASK},
        {**BT, "words": "bt"},
    ),
    "CausalLanguageModel": Row(
        lambda: spread(
            models.CausalLanguageModel(
                models.CausalLanguageModelConfig(**DECODER, num_kv_heads=2, max_positions=70)
            )
        ),
        {"input_ids": ids(20, 3, 5)},
        BT,
    ),
    "CharacterCNN": Row(
        lambda: spread(models.CharacterCNN(9, 4, 5, 3)), {"char_ids": ids(9, 3, 5, 4)}, {"char_ids": "bt"}
    ),
    "DIN": Row(
        lambda: spread(
            models.DIN(models.DINConfig(item_vocab_sizes=(9, 4), vocab_sizes=(7,), embedding_size=5))
        ),
        {
            "target": ids(4, 3, 2),
            "history": ids(4, 3, 5, 2),
            "lengths": np.array([5, 2, 4]),
            "categories": ids(7, 3, 1),
        },
    ),
    "DecodingStep": Row(
        decoding_step,
        step(3, 9, 5),
        {"tokens": "b", "lengths": "b", **STATES},
        3,
    ),
    "DeepFM": Row(
        lambda: spread(
            models.DeepFM(models.DeepFMConfig(vocab_sizes=(4, 6), num_numbers=3, embedding_size=5))
        ),
        COLUMNS,
    ),
    "EncoderDecoder": Row(translator, SOURCE, {"source_ids": "bs", "target_ids": "bt"}),
    "EncodingStep": Row(
        lambda: models.EncodingStep(translator()),
        {"inputs": SOURCE["source_ids"], "source_lengths": SOURCE["source_lengths"]},
        {"inputs": "bs"},
        2,
    ),
    "FTTransformer": Row(
        lambda: spread(
            models.FTTransformer(
                models.FTTransformerConfig(
                    vocab_sizes=(4, 6),
                    num_numbers=3,
                    hidden_size=8,
                    num_layers=2,
                    num_heads=2,
                    intermediate_size=10,
                )
            )
        ),
        COLUMNS,
    ),
    "ImageToText": Row(image_to_text, {**PIXELS, "target_ids": ids(20, 2, 4)}, {"target_ids": "bt"}),
    "ResNet": Row(
        lambda: spread(
            models.ResNet(
                models.ResNetConfig(blocks=(1, 1), channels=(8, 16), stem="small", labels=("a", "b", "c"))
            )
        ),
        {"image": floats(2, 3, 12, 12)},
    ),
    "SentenceEncoder": language(models.SentenceEncoder),
    "TabularModel": Row(
        lambda: spread(
            models.TabularModel(models.TabularConfig(vocab_sizes=(4, 6), num_numbers=3, embedding_size=5))
        ),
        COLUMNS,
    ),
    "TextCNN": Row(
        lambda: spread(
            models.TextCNN(
                models.TextCNNConfig(
                    vocab_size=20,
                    embedding_size=6,
                    filter_sizes=(2, 3),
                    num_filters=4,
                    labels=("a", "b", "c"),
                )
            )
        ),
        {"input_ids": ids(20, 3, 5), **MASK},
        BT,
    ),
    "TextDecoder": Row(
        lambda: translator().decoder,
        {"input_ids": ids(20, 3, 5), "memory": floats(3, 4, 16)},
        {"input_ids": "bt", "memory": "bm"},
    ),
    "TwoTowerModel": Row(
        lambda: spread(
            Towers(
                models.TwoTowerModel(
                    models.TwoTowerConfig(
                        user=models.FeaturesConfig(vocab_sizes=(7, 4)),
                        item=models.FeaturesConfig(vocab_sizes=(9,)),
                        embedding_size=5,
                        hidden_sizes=(8,),
                        output_size=6,
                    )
                )
            )
        ),
        {"user": ids(4, 3, 2), "item": ids(9, 3, 1)},
    ),
    **{
        kind.__name__: Row(lambda kind=kind: spread(kind(VIT)), PIXELS)
        for kind in (models.ViTEncoder, models.ViTForImageClassification, models.ViTModel)
    },
}
