"""One vector for a whole text, for search and comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_infra._core.checks import check_positive
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.models.bert_config import BertConfig
from paddle_infra.models.encoder import EncoderModel, pooled
from paddle_infra.nn import cls_pool, mean_pool


class SentenceEncoder(EncoderModel):
    """Encoder whose result is one vector of length 1: the inner product of two is their cosine.

    ``config.pooling`` says how: ``"mean"`` over the real tokens (MiniLM, E5), ``"cls"`` (BGE, SimCSE) or ``"pooler"``.
    It is not in every checkpoint's configuration: ``SentenceEncoder.from_pretrained(directory, pooling="cls")``.

    E5 models want ``"query: "`` before a question and ``"passage: "`` before a text that may answer it (for symmetric
    tasks ``"query: "`` before both): see ``prefix`` of :meth:`encode`.

    Shapes:
        inputs as in :class:`BertModel` to float32 ``[batch_size, hidden_size]``. A row without any token gives zeros.

    References:
        Reimers and Gurevych, "Sentence-BERT", arXiv:1908.10084; Wang et al., "Multilingual E5", arXiv:2402.05672.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, has_pooler=config.pooling == "pooler")
        self._initialize()

    def architecture(self) -> str:
        """Return the bare encoder: the field has no class for this one."""
        return f"{self.config.family.class_prefix}Model"

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        task_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the vectors."""
        hidden = self.encoder(input_ids, token_type_ids, attention_mask, task_type_ids)
        if self.config.pooling == "mean":
            mask = paddle.ones_like(input_ids) if attention_mask is None else attention_mask
            return F.normalize(mean_pool(hidden, mask), axis=-1)
        first = cls_pool(hidden)
        return F.normalize(pooled(self.encoder, first) if self.config.pooling == "pooler" else first, axis=-1)

    def encode(
        self,
        texts: Sequence[str],
        tokenizer: Any,
        *,
        prefix: str = "",
        max_length: int | None = None,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Return the vectors of texts, float32 ``[len(texts), hidden_size]``, in evaluation mode, without gradients.

        Args:
            texts: any number of them.
            tokenizer: a :class:`paddle_infra.data.Tokenizer`, or what has its ``encode`` and ``pad_id``.
            prefix: put before every text, for instance ``"query: "``.
            max_length: tokens of a text, the rest is cut off; by default as many as the model has positions.
            batch_size: texts computed at once; those of similar length are put together.

        Raises:
            InvalidInputError: ``texts`` is one string, or ``batch_size`` is not a positive integer.
        """
        check_positive("batch_size", batch_size)
        if isinstance(texts, str):
            raise InvalidInputError(f"texts: expected a sequence of texts, got one: {texts!r:.80}")
        limit = self.config.max_position_embeddings
        if self.config.family.counts_positions:
            limit -= self.config.pad_token_id + 1
        rows = [tokenizer.encode(prefix + text, min(limit, max_length or limit)).input_ids for text in texts]
        vectors = np.zeros((len(rows), self.config.hidden_size), np.float32)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        was_training = self.training
        self.eval()
        try:
            with paddle.no_grad():
                for first in range(0, len(order), batch_size):
                    chosen = order[first : first + batch_size]
                    vectors[chosen] = self(
                        **_batch([rows[index] for index in chosen], tokenizer.pad_id)
                    ).numpy()
        finally:
            self.train() if was_training else self.eval()
        return vectors


def _batch(rows: list[list[int]], pad_id: int) -> dict[str, Tensor]:
    input_ids = np.full((len(rows), max(map(len, rows))), pad_id, np.int64)
    attention_mask = np.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row
        attention_mask[index, : len(row)] = 1
    return {"input_ids": paddle.to_tensor(input_ids), "attention_mask": paddle.to_tensor(attention_mask)}
