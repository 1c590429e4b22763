"""FT-Transformer: the columns of a row as the tokens of a sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra.models.table import TableConfig, TableModel
from paddle_infra.nn import CategoryEmbedding, NumberScaling, TransformerEncoder
from paddle_infra.nn.features import check_given


@dataclass(frozen=True)
class FTTransformerConfig(TableConfig):
    """Columns and sizes of an :class:`FTTransformer`; see :class:`TableConfig`."""

    model_type = "ft_transformer"
    hidden_size: int = 64
    num_layers: int = 3
    num_heads: int = 8
    intermediate_size: int = 128
    activation: str = "geglu"
    attention_dropout: float = 0.1


class FeatureTokenizer(nn.Layer):
    """A token for each column: ``x w + b`` for a number, a vector plus ``b`` for a category, and [CLS] in front.

    Args:
        vocab_sizes: number of categories of each column.
        num_numbers: columns of numbers; NaN is missing, and adds a learned vector of the column to its ``b``.
        width: width of a token.

    Shapes:
        categories ``[batch_size, len(vocab_sizes)]``, numbers ``[batch_size, num_numbers]`` to
        ``[batch_size, 1 + num_numbers + len(vocab_sizes), width]``.
    """

    def __init__(self, vocab_sizes: tuple[int, ...], num_numbers: int, width: int) -> None:
        super().__init__()
        limit = 1.0 / math.sqrt(width)
        self._initial = nn.initializer.Uniform(-limit, limit)
        self.cls = self._vectors([1, width])
        self.bias = self._vectors([num_numbers + len(vocab_sizes), width])
        self.scaling = NumberScaling(num_numbers) if num_numbers else None
        if num_numbers:
            self.weight = self._vectors([num_numbers, width])
            self.missing = self.create_parameter([num_numbers, width], is_bias=True)  # 0 in the beginning
        # As wide as a uniform distribution within the limit.
        self.fields = (
            CategoryEmbedding(vocab_sizes, width, std=limit / math.sqrt(3.0)) if vocab_sizes else None
        )

    def _vectors(self, shape: list[int]) -> Tensor:
        return self.create_parameter(shape, default_initializer=self._initial)

    def forward(self, categories: Tensor | None, numbers: Tensor | None) -> Tensor:
        """Return the tokens."""
        check_given("categories", categories, self.fields is not None)
        check_given("numbers", numbers, self.scaling is not None)
        parts = []
        if self.scaling is not None:
            scaled, missing = self.scaling(numbers)
            parts.append(scaled.unsqueeze(-1) * self.weight + missing.unsqueeze(-1) * self.missing)
        if self.fields is not None:
            parts.append(self.fields(categories))
        tokens = paddle.concat(parts, axis=1) + self.bias
        # Broadcast by adding: as many rows as there are, also where a program does not know how many.
        return paddle.concat([paddle.zeros_like(tokens[:, :1]) + self.cls, tokens], axis=1)


class FTTransformer(TableModel):
    """A Transformer over the columns of a row; the first token, [CLS], says what the row is.

    Pre-norm, then ReLU and a linear layer on the norm of [CLS]. Take mean and deviation of the numbers from the
    training data first: ``model.tokenizer.scaling.fit(numbers)``. Shapes as of :class:`TableModel`.

    References:
        Gorishniy et al., arXiv:2106.11959, section 3.3. The gate is GELU's instead of ReLU's, and the first layer keeps
        its first norm, which the paper leaves out; missing numbers are ours.
    """

    config_class = FTTransformerConfig

    def __init__(self, config: FTTransformerConfig) -> None:
        super().__init__(config)
        self.tokenizer = FeatureTokenizer(config.vocab_sizes, config.num_numbers, config.hidden_size)
        self.encoder = TransformerEncoder(
            config.num_layers,
            config.hidden_size,
            config.num_heads,
            config.intermediate_size,
            activation=config.activation,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            epsilon=1e-5,
            norm_first=True,
        )
        self._add_head(config.hidden_size)

    def features(self, categories: Tensor | None, numbers: Tensor | None) -> Tensor:
        """Return what the head sees, ``[batch_size, hidden_size]``."""
        return F.relu(self.encoder(self.tokenizer(categories, numbers))[:, 0])
