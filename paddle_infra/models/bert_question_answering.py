"""The encoder with a head that marks where an answer begins and ends."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra.models.bert_config import BertConfig
from paddle_infra.models.encoder import EncoderModel

_HIDDEN = -1e9  # a logit of padding: its probability is 0 in float32, and no sum of such becomes infinite
IGNORED = -100


class BertForQuestionAnswering(EncoderModel):
    """Encoder that finds the span of a text that answers a question, both in one sequence.

    Shapes:
        inputs as in :class:`BertModel` to two tensors of logits ``[batch_size, seq_len]``, of the first and of the last
        token; padding has -1e9. Positions int64 ``[batch_size]``, -100 where there is no answer to learn.

    References:
        Devlin et al., "BERT", arXiv:1810.04805, section 4.2. Nothing is dropped before the head, as there (DistilBERT's
        original does).
    """

    paddle_heads = MappingProxyType({"classifier": "qa_outputs"})

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, has_pooler=False)
        self.span = nn.Linear(config.hidden_size, 2)
        self._initialize()

    def head_names(self) -> Mapping[str, str]:
        """Return what files call the layers of the head."""
        return MappingProxyType({"span": "qa_outputs"})

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        task_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of starts and of ends."""
        logits = self.span(self.encoder(input_ids, token_type_ids, attention_mask, task_type_ids))
        start, end = logits[:, :, 0], logits[:, :, 1]
        if attention_mask is None:
            return start, end
        hidden = paddle.full_like(start, _HIDDEN)
        is_seen = attention_mask != 0
        return paddle.where(is_seen, start, hidden), paddle.where(is_seen, end, hidden)

    def loss(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        *,
        start_positions: Tensor,
        end_positions: Tensor,
    ) -> Tensor:
        """Return half the sum of the mean cross entropies of starts and of ends (0-D).

        Each is a mean over the positions that are not -100; if all are, it is 0.
        """
        start, end = self(input_ids, token_type_ids, attention_mask, task_type_ids)
        return (_cross_entropy(start, start_positions) + _cross_entropy(end, end_positions)) / 2


def _cross_entropy(logits: Tensor, positions: Tensor) -> Tensor:
    # Paddle's own divides by all rows, also those that are ignored.
    counts = (positions != IGNORED).astype(logits.dtype)
    index = paddle.where(positions == IGNORED, paddle.zeros_like(positions), positions)
    log_prob = paddle.take_along_axis(F.log_softmax(logits, axis=-1), index.unsqueeze(-1), axis=-1).squeeze(
        -1
    )
    return -(log_prob * counts).sum() / counts.sum().clip(min=1.0)
