"""What models of tables share: columns in, classes or numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from paddle import Tensor

from paddle_infra._core.checks import check_choice
from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.config import ModelConfig
from paddle_infra.nn import RegressionHead, SequenceClassificationHead

_TASKS = ("classification", "regression")


@dataclass(frozen=True)
class TableConfig(ModelConfig):
    """Columns and task of a model of tables.

    ``vocab_sizes`` are the numbers of categories of each column (keep one, for instance 0, for what is missing or
    unknown), ``num_numbers`` the columns of numbers (NaN = missing). ``task`` is ``"classification"`` into
    ``num_outputs`` classes or ``"regression"`` of ``num_outputs`` numbers.
    """

    vocab_sizes: tuple[int, ...] = ()
    num_numbers: int = 0
    task: str = "classification"
    num_outputs: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_choice("task", self.task, _TASKS)


class TableModel(PretrainedModel):
    """Base of models of tables: ``features`` and a head.

    Shapes:
        categories int64 ``[batch_size, len(vocab_sizes)]`` and numbers float ``[batch_size, num_numbers]``, each None
        if and only if there are no such columns, to logits or numbers ``[batch_size, num_outputs]``. Labels: int64
        ``[batch_size]``, or float ``[batch_size, num_outputs]`` for regression.
    """

    def _add_head(self, width: int) -> None:
        config = self.config
        head = SequenceClassificationHead if config.task == "classification" else RegressionHead
        self.head = head(width, config.num_outputs, config.dropout)

    def features(self, categories: Tensor | None, numbers: Tensor | None) -> Tensor:
        """Return what the head sees, ``[batch_size, width]``."""
        raise NotImplementedError

    def forward(self, categories: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """Return logits or numbers."""
        return self.head(self.features(categories, numbers))

    def loss(
        self,
        categories: Tensor | None = None,
        numbers: Tensor | None = None,
        *,
        labels: Tensor,
        **options: Any,
    ) -> Tensor:
        """Return the head's mean loss (cross entropy, or squared error), 0-D; ``options`` go to the head."""
        return self.head.loss(self.features(categories, numbers), labels, **options)
