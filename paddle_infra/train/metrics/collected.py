"""Any function of all labels and predictions as a metric, within a bound on what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddle_infra._core.errors import InvalidInputError, UnsupportedError


class CollectedMetric:
    """A function of all items at once, such as those of ``sklearn.metrics``, as a metric.

    Unlike the other metrics it keeps every item until the end: ``max_items`` bounds how many, and one more is an
    error. Before the function is called the items are put into an order that depends on their values alone, so that
    the result has the same bits however they were spread over batches and processes.

    ::

        CollectedMetric("roc_auc", sklearn.metrics.roc_auc_score, ("labels", "scores"), max_items=1_000_000)

    Args:
        name: name of the value.
        function: called with one array per input, [items, ...], and ``options``; returns a number.
        inputs: evaluation outputs that it takes, in its order; their first axes are equal.
        max_items: most items to keep; the memory is this times the bytes of one item.
        **options: further keyword arguments of the function.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        inputs: Sequence[str] = ("labels", "predictions"),
        *,
        max_items: int,
        **options: Any,
    ) -> None:
        if max_items < 1 or not inputs:
            raise InvalidInputError(
                f"CollectedMetric: expected max_items >= 1 and at least one input, got {max_items} and {inputs}"
            )
        self.name, self.function, self.inputs, self.options = name, function, tuple(inputs), options
        self.max_items = max_items
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self.items = 0
        self._kept: list[tuple[npt.NDArray[Any], ...]] = []

    def update(self, **outputs: Any) -> None:
        """Keep one batch.

        Raises:
            InvalidInputError: an input is missing, or the inputs differ in length.
            UnsupportedError: there are more items than ``max_items``.
        """
        missing = [name for name in self.inputs if outputs.get(name) is None]
        if missing:
            raise InvalidInputError(
                f"CollectedMetric {self.name!r}: expected the evaluation outputs {list(self.inputs)}, "
                f"got {sorted(outputs)}"
            )
        arrays = tuple(np.asarray(outputs[name]) for name in self.inputs)
        lengths = [len(array) if array.ndim else -1 for array in arrays]
        if len(set(lengths)) > 1 or lengths[0] < 0:
            raise InvalidInputError(
                f"CollectedMetric {self.name!r}: expected inputs with as many items, got the shapes "
                f"{[list(array.shape) for array in arrays]}"
            )
        self._keep(tuple(array.copy() for array in arrays))

    def state(self) -> list[tuple[npt.NDArray[Any], ...]]:
        """Return everything kept."""
        return self._kept

    def add_state(self, state: list[tuple[npt.NDArray[Any], ...]]) -> None:
        """Add what another process kept.

        Raises:
            UnsupportedError: there are more items than ``max_items``.
        """
        for arrays in state:
            self._keep(arrays)

    def compute(self) -> dict[str, float]:
        """Call the function.

        Raises:
            InvalidInputError: there is no item.
        """
        if not self.items:
            raise InvalidInputError(f"CollectedMetric {self.name!r}: expected at least one item, got none")
        arrays = [np.concatenate(parts) for parts in zip(*self._kept, strict=True)]
        order = _order(arrays)
        return {self.name: float(self.function(*(array[order] for array in arrays), **self.options))}

    def _keep(self, arrays: tuple[npt.NDArray[Any], ...]) -> None:
        items = self.items + len(arrays[0])
        if items > self.max_items:
            raise UnsupportedError(
                f"CollectedMetric {self.name!r}: expected at most max_items={self.max_items} items, got {items}: "
                "raise the bound if the memory allows it, or use a metric that keeps counts"
            )
        if len(arrays[0]):
            self.items = items
            self._kept.append(arrays)


def _order(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Return an order of the items by their bytes."""
    rows = [np.ascontiguousarray(array.reshape(len(array), -1)) for array in arrays]
    raw = [row.view(np.uint8).reshape(len(row), -1) for row in rows]
    joined = np.ascontiguousarray(np.concatenate(raw, axis=1))
    # As byte strings of one length; that NumPy ignores zeros at their end changes no order of different rows.
    keys = joined.view(f"S{joined.shape[1]}").ravel()
    return np.argsort(keys, kind="stable")
