"""The encoder that all models of the BERT families share, with its names in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.errors import WeightError
from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.bert_config import BertConfig
from paddle_infra.models.checkpoint import INDEX_FILE, WEIGHT_FILE, Checkpoint, open_weights
from paddle_infra.models.families import checkpoint_names, is_transposed
from paddle_infra.models.paddle_checkpoint import find_paddle_weights, open_paddle
from paddle_infra.nn import TransformerEmbedding, TransformerEncoder, key_padding_mask

_PADDLE_FAMILIES = ("bert", "ernie", "roberta")


class Encoder(nn.Layer):
    """Embeddings, Transformer stack and, if wanted, a dense layer on the first token.

    Families that count positions (RoBERTa, XLM-R) do so as their originals: over the ids that are no padding. A token
    that ``attention_mask`` hides after the last real one changes nothing, whatever its id; padding before the first
    token must be ``config.pad_token_id``. For the other families positions start with the row: padding on the right.
    """

    def __init__(self, config: BertConfig, *, has_pooler: bool) -> None:
        super().__init__()
        self.embeddings = TransformerEmbedding(
            config.vocab_size,
            config.hidden_size,
            config.max_position_embeddings,
            config.type_vocab_size if config.family.has_token_types else 0,
            dropout=config.hidden_dropout_prob,
            epsilon=config.layer_norm_eps,
            task_type_vocab_size=config.task_type_vocab_size if config.use_task_id else 0,
            task_id=config.task_id,
        )
        self.stack = TransformerEncoder(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            activation=config.activation,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            epsilon=config.layer_norm_eps,
        )
        if has_pooler:
            self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.has_token_types = config.family.has_token_types
        self.padding_id = config.pad_token_id if config.family.counts_positions else None

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        task_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states of the last layer."""
        position_ids = None
        if self.padding_id is not None:
            position_ids = counted_positions(input_ids, attention_mask, self.padding_id)
        if not self.has_token_types:
            token_type_ids = None
        embedded = self.embeddings(input_ids, token_type_ids, position_ids, task_type_ids=task_type_ids)
        bias = None if attention_mask is None else key_padding_mask(attention_mask)
        return self.stack(embedded, bias)


def counted_positions(input_ids: Tensor, attention_mask: Tensor | None, padding_id: int) -> Tensor:
    """Return RoBERTa's positions: ``padding_id`` plus how many ids up to here are no padding.

    Padding itself has position ``padding_id``, also what ``attention_mask`` hides: that may be anything and any number
    of tokens, and must not lead out of the table.

    References:
        Liu et al., "RoBERTa", arXiv:1907.11692; the rule is that of fairseq's ``make_positions``.
    """
    is_token = (input_ids != padding_id).astype("int64")
    positions = paddle.cumsum(is_token, axis=1) * is_token
    if attention_mask is not None:
        positions = positions * (attention_mask != 0).astype("int64")
    return positions + padding_id


class EncoderModel(PretrainedModel):
    """Base of the models: an :class:`Encoder` and a head, initial weights, and names in checkpoints."""

    config_class = BertConfig
    ignores_unexpected = True  # a head of another task, a pooler
    paddle_heads: ClassVar[Mapping[str, str]] = MappingProxyType({})  # layers that PaddleNLP calls otherwise
    passed_through = (
        "added_tokens.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    )

    def __init__(self, config: BertConfig, *, has_pooler: bool) -> None:
        super().__init__(config)
        self.encoder = Encoder(config, has_pooler=has_pooler)

    def head_names(self) -> Mapping[str, str]:
        """Return what files call the layers of the head, by our names."""
        return MappingProxyType({})

    def architecture(self) -> str:
        """Return the class that reads a saved model in the field's library, e.g. ``XLMRobertaForMaskedLM``."""
        return self.config.family.class_prefix + type(self).__name__.removeprefix("Bert")

    def checkpoint_names(self, name: str) -> tuple[str, ...]:
        """Return the family's names of a parameter."""
        return checkpoint_names(self.config.family, self.head_names(), name)

    def optional_names(self) -> tuple[str, ...]:
        """Return the beginnings of the names of the head and the pooler, which a bare encoder's file may lack."""
        return (*self.head_names().values(), f"{self.config.family.prefix}pooler.")

    def is_transposed(self, name: str) -> bool:
        """Whether the parameter is the weight of a Linear layer."""
        return is_transposed(name)

    def adapted(self, name: str, value: np.ndarray, shape: list[int]) -> np.ndarray:
        """Repeat token type 0 if the model has more types than the file, so that these are at first the same."""
        is_short = name.endswith("token_type.weight") and 0 < value.shape[0] < shape[0]
        if not (is_short and value.shape[1:] == tuple(shape[1:])):
            return value
        return np.concatenate([value, np.repeat(value[:1], shape[0] - value.shape[0], axis=0)])

    def is_ignored(self, name: str) -> bool:
        """Whether a name is that of a buffer which old versions of the field's library saved: 0, 1, 2, …."""
        return name.endswith("embeddings.position_ids")

    def open_checkpoint(self, directory: str | Path) -> AbstractContextManager[Checkpoint]:
        """Open safetensors, or PaddleNLP's ``model_state.pdparams`` where there are none."""
        folder = Path(directory)
        has_safetensors = any((folder / name).exists() for name in (WEIGHT_FILE, INDEX_FILE))
        path = None if has_safetensors else find_paddle_weights(folder)
        if path is None:
            return open_weights(folder)
        if self.config.model_type not in _PADDLE_FAMILIES:
            raise WeightError(
                f"{path}: expected safetensors for {self.config.model_type!r}; PaddleNLP's files are read of "
                f"{', '.join(_PADDLE_FAMILIES)}"
            )
        return open_paddle(path, self.config.family, self.paddle_heads)

    def _initialize(self) -> None:
        """Draw all weights as BERT does: normal for matrices, 0 for biases, norms untouched."""
        normal = nn.initializer.Normal(0.0, self.config.initializer_range)
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear | nn.Embedding):
                normal(layer.weight)
                if getattr(layer, "bias", None) is not None:
                    nn.initializer.Constant(0.0)(layer.bias)


def pooled(encoder: Encoder, first: Tensor, activation: str = "tanh") -> Tensor:
    """Return ``f(W h₀ + b)`` of first tokens ``[batch_size, hidden_size]``."""
    dense = encoder.pooler(first)
    return F.tanh(dense) if activation == "tanh" else F.relu(dense)
