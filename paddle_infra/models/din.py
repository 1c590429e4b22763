"""Deep interest network: click prediction that looks at the history with the target in mind."""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_infra._core.checks import UNKNOWN, check_shape, check_tensor
from paddle_infra.models._click import click_loss
from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.config import ModelConfig
from paddle_infra.nn import CategoryEmbedding, DenseStack, Linear, TableFeatures, length_mask


@dataclass(frozen=True)
class DINConfig(ModelConfig):
    """Sizes of a :class:`DIN`.

    ``item_vocab_sizes`` are the columns of an item (its id, its category, …), of the target as of the history;
    ``vocab_sizes`` and ``num_numbers`` those of the user and the context, if any. ``activation`` is ``"dice"`` or
    ``"relu"``. ``normalize_attention`` puts a softmax over the history.
    """

    model_type = "din"
    item_vocab_sizes: tuple[int, ...] = (1,)
    vocab_sizes: tuple[int, ...] = ()
    num_numbers: int = 0
    embedding_size: int = 16
    attention_sizes: tuple[int, ...] = (80, 40)
    hidden_sizes: tuple[int, ...] = (200, 80)
    activation: str = "dice"
    dropout: float = 0.0
    normalize_attention: bool = False


class DIN(PretrainedModel):
    r"""Click prediction from a target item, the items of a user's history, and columns of the user.

    The history is summed, each item :math:`h` with the weight :math:`a(h, t)`, a perceptron of
    :math:`[h, t, h - t, h \cdot t]` with the target :math:`t`. The weights are not normalized unless the configuration
    says so: their sum tells how strong an interest is. Padding has no effect: neither on the sum nor, in training, on
    the mean and the variance of :class:`paddle_infra.nn.Dice`.

    Shapes:
        target ``[batch_size, item_columns]``, history ``[batch_size, length, item_columns]`` and lengths
        ``[batch_size]``, all int64; categories and numbers as of :class:`paddle_infra.nn.TableFeatures`; to logits
        ``[batch_size]``.

    References:
        Zhou et al., arXiv:1706.06978, sections 4.3 and 5.3. The difference and the product of the vectors stand for the
        paper's outer product, as in the authors' code.
    """

    config_class = DINConfig

    def __init__(self, config: DINConfig) -> None:
        super().__init__(config)
        self.items = CategoryEmbedding(config.item_vocab_sizes, config.embedding_size)
        width = config.embedding_size * len(config.item_vocab_sizes)
        size = 2 * width
        self.features: TableFeatures | None = None
        if config.vocab_sizes or config.num_numbers:
            self.features = TableFeatures(config.vocab_sizes, config.num_numbers, width=config.embedding_size)
            size += self.features.size
        self.attention = DenseStack(4 * width, config.attention_sizes, config.activation)
        self.attention_output = Linear(self.attention.size, 1)
        self.stack = DenseStack(size, config.hidden_sizes, config.activation, dropout=config.dropout)
        self.output = Linear(self.stack.size, 1)

    def interest(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Return the weighted sum of the history, from vectors ``[batch_size, width]`` and ``[…, length, width]``."""
        target = target.unsqueeze(1).expand_as(history)
        pairs = paddle.concat([history, target, history - target, history * target], axis=-1)
        score = self.attention_output(self.attention(pairs, mask)).squeeze(-1)
        if self.config.normalize_attention:
            score = F.softmax(paddle.where(mask, score, paddle.full([], -1e30, score.dtype)), axis=-1)
        score = paddle.where(mask, score, paddle.zeros_like(score))
        return paddle.matmul(score.unsqueeze(1), history).squeeze(1)

    def forward(
        self,
        target: Tensor,
        history: Tensor,
        lengths: Tensor,
        categories: Tensor | None = None,
        numbers: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of a click."""
        columns = len(self.config.item_vocab_sizes)
        check_tensor("history", history, ("int64", "int32"))
        check_shape("history", history, [UNKNOWN, UNKNOWN, columns], "[batch_size, length, item_columns]")
        check_shape("target", target, [history.shape[0], columns], "[batch_size, item_columns]")
        mask = length_mask(lengths, history)
        history = paddle.where(mask.unsqueeze(-1), history, paddle.zeros_like(history))
        item = self.items(target).flatten(1)
        parts = [self.interest(item, self.items(history).flatten(2), mask), item]
        if self.features is not None:
            parts.append(self.features(categories, numbers))
        return self.output(self.stack(paddle.concat(parts, axis=-1))).squeeze(-1)

    def loss(
        self,
        target: Tensor,
        history: Tensor,
        lengths: Tensor,
        categories: Tensor | None = None,
        numbers: Tensor | None = None,
        *,
        labels: Tensor,
    ) -> Tensor:
        """Return the mean binary cross entropy; labels float or bool ``[batch_size]``, 1 = click."""
        return click_loss(self(target, history, lengths, categories, numbers), labels)
