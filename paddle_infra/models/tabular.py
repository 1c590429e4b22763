"""A perceptron on the columns of a table."""

from __future__ import annotations

from dataclasses import dataclass

from paddle import Tensor

from paddle_infra.models.table import TableConfig, TableModel
from paddle_infra.nn import DenseStack, TableFeatures


@dataclass(frozen=True)
class TabularConfig(TableConfig):
    """Columns and sizes of a :class:`TabularModel`; see :class:`TableConfig`."""

    model_type = "tabular"
    embedding_size: int = 8
    hidden_sizes: tuple[int, ...] = (64, 32)
    activation: str = "relu"


class TabularModel(TableModel):
    """A perceptron on vectors of categories and on standardized numbers, with marks of missing ones.

    Take mean and deviation of the numbers from the training data first: ``model.table.scaling.fit(numbers)``. They are
    saved with the model. Shapes as of :class:`TableModel`.
    """

    config_class = TabularConfig

    def __init__(self, config: TabularConfig) -> None:
        super().__init__(config)
        self.table = TableFeatures(config.vocab_sizes, config.num_numbers, width=config.embedding_size)
        self.stack = DenseStack(
            self.table.size, config.hidden_sizes, config.activation, dropout=config.dropout
        )
        self._add_head(self.stack.size)

    def features(self, categories: Tensor | None, numbers: Tensor | None) -> Tensor:
        """Return what the head sees, ``[batch_size, width]``."""
        return self.stack(self.table(categories, numbers))
