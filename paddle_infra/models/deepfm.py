"""DeepFM: a factorization machine and a deep network on the same vectors, for click prediction."""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra.models._click import click_loss
from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.config import ModelConfig
from paddle_infra.nn import DenseStack, Linear, TableFeatures


@dataclass(frozen=True)
class DeepFMConfig(ModelConfig):
    """Sizes of a :class:`DeepFM`; columns as of :class:`paddle_infra.nn.TableFeatures`."""

    model_type = "deepfm"
    vocab_sizes: tuple[int, ...] = (1,)
    num_numbers: int = 0
    bag_vocab_sizes: tuple[int, ...] = ()
    embedding_size: int = 10
    hidden_sizes: tuple[int, ...] = (400, 400, 400)
    dropout: float = 0.0


class DeepFM(PretrainedModel):
    r"""Click prediction from columns of categories, lists and numbers.

    The logit is :math:`b + \sum_i w_i x_i + \sum_{i<j} (v_i \cdot v_j) x_i x_j + \mathrm{deep}(v)`: a weight and a
    vector for each category and for each column of numbers, all pairs of columns, and a perceptron on the vectors.
    :math:`x_i` is 1 for a category, the standardized number for a number (0 if missing; the perceptron also sees
    which are missing), and for a list :math:`v_i` and :math:`w_i` are means.

    Shapes:
        columns as of :class:`paddle_infra.nn.TableFeatures` to logits ``[batch_size]``.

    References:
        Guo et al., arXiv:1703.04247, section 2. The paper has neither lists nor missing numbers.
    """

    config_class = DeepFMConfig

    def __init__(self, config: DeepFMConfig) -> None:
        super().__init__(config)
        columns = (config.vocab_sizes, config.num_numbers, config.bag_vocab_sizes)
        self.features = TableFeatures(*columns, width=config.embedding_size)
        # The weights w: as the vectors, one wide.
        self.linear = TableFeatures(columns[0], 0, columns[2], width=1) if columns[0] or columns[2] else None
        size = self.features.size
        if config.num_numbers:
            normal = nn.initializer.Normal(0.0, 0.05)
            shape = [config.num_numbers, config.embedding_size]
            self.number_vectors = self.create_parameter(shape, default_initializer=normal)
            self.number_weights = self.create_parameter([config.num_numbers, 1], default_initializer=normal)
            size += (
                config.num_numbers * config.embedding_size - config.num_numbers
            )  # vectors instead of numbers
        self.deep = DenseStack(size, config.hidden_sizes, dropout=config.dropout)
        self.output = Linear(self.deep.size, 1)  # its bias is b

    def forward(
        self,
        categories: Tensor | None = None,
        numbers: Tensor | None = None,
        bags: Tensor | None = None,
        bag_lengths: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of a click."""
        vectors = self.features.vectors(categories, bags, bag_lengths)
        scaled = self.features.scaled(numbers)
        first = 0.0 if self.linear is None else self.linear(categories, None, bags, bag_lengths).sum(axis=-1)
        parts = [] if vectors is None else [vectors]
        if scaled is not None:
            parts.append(scaled[0].unsqueeze(-1) * self.number_vectors)
            first = first + paddle.matmul(scaled[0], self.number_weights).squeeze(-1)
        fields = paddle.concat(parts, axis=1)
        # All pairs: half of the square of the sum without the squares.
        pairs = 0.5 * (fields.sum(axis=1).square() - fields.square().sum(axis=1)).sum(axis=-1)
        flat = fields.flatten(1)
        deep = self.deep(flat if scaled is None else paddle.concat([flat, scaled[1]], axis=-1))
        return first + pairs + self.output(deep).squeeze(-1)

    def predict(
        self,
        categories: Tensor | None = None,
        numbers: Tensor | None = None,
        bags: Tensor | None = None,
        bag_lengths: Tensor | None = None,
    ) -> Tensor:
        """Return the probabilities of a click, ``[batch_size]``."""
        return F.sigmoid(self(categories, numbers, bags, bag_lengths))

    def loss(
        self,
        categories: Tensor | None = None,
        numbers: Tensor | None = None,
        bags: Tensor | None = None,
        bag_lengths: Tensor | None = None,
        *,
        labels: Tensor,
    ) -> Tensor:
        """Return the mean binary cross entropy; labels float or bool ``[batch_size]``, 1 = click."""
        return click_loss(self(categories, numbers, bags, bag_lengths), labels)
