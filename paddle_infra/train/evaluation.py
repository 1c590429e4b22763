"""Evaluation: one forward step and the metrics that digest its outputs batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.metrics.base import Metric
from paddle_infra.train.strategy import Strategy


class Evaluator:
    """How to evaluate a model.

    Args:
        step: ``step(model, batch) -> dict`` of tensors or arrays; its keys are the keyword arguments that the
            metrics take (``labels`` with ``predictions`` or ``logits``; ``loss`` and ``items`` for
            :class:`~paddle_infra.train.metrics.base.MeanLoss`). Each metric takes what it needs and ignores the
            rest.
        metrics: see :class:`~paddle_infra.train.metrics.base.Metric`. They keep sums, never outputs, so that memory
            does not grow with the data.
    """

    def __init__(
        self, step: Callable[[paddle.nn.Layer, Any], dict[str, Any]], metrics: Sequence[Metric]
    ) -> None:
        self.step = step
        self.metrics = tuple(metrics)
        if not self.metrics:
            raise InvalidInputError("Evaluator: expected at least one metric, got none")

    def reset(self) -> None:
        """Forget everything seen."""
        for metric in self.metrics:
            metric.reset()

    def update(self, model: paddle.nn.Layer, batch: Any) -> None:
        """Run the step on one batch and give its outputs to every metric.

        Raises:
            InvalidInputError: the step returned no dict, or a metric misses one of its inputs.
        """
        outputs = self.step(model, batch)
        if not isinstance(outputs, dict):
            raise InvalidInputError(
                f"evaluation step: expected a dict of outputs, got {type(outputs).__name__}"
            )
        arrays = {name: _as_array(value) for name, value in outputs.items()}
        for metric in self.metrics:
            metric.update(**arrays)

    def merge(self, strategy: Strategy) -> None:
        """Add what the other processes have seen, so that all of them have seen everything."""
        if strategy.ranks > 1:
            for metric in self.metrics:
                states = strategy.gather(metric.state())
                metric.reset()
                for state in states:  # by rank, so that every process comes to the same bits
                    metric.add_state(state)

    def compute(self) -> dict[str, float]:
        """Return the values of all metrics.

        Raises:
            InvalidInputError: two metrics give a value the same name.
        """
        values: dict[str, float] = {}
        for metric in self.metrics:
            for name, value in metric.compute().items():
                if name in values:
                    raise InvalidInputError(f"metrics: expected distinct names, got {name!r} twice")
                values[name] = float(value)
        return values


def _as_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, paddle.Tensor) else np.asarray(value)
