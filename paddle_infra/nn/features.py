"""Columns of a table as vectors: categories, lists of categories, numbers with missing values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.jit.marker import unified

from paddle_infra._core.checks import UNKNOWN, check_positive, check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.padding import length_mask
from paddle_infra.nn.pooling import mean_pool

_INTEGERS = ("int64", "int32")


class CategoryEmbedding(nn.Layer):
    """A table of vectors for each column of categories.

    Args:
        vocab_sizes: number of categories of each column.
        width: width of the vectors.
        std: standard deviation of the initial vectors.

    Shapes:
        ids ``[..., num_columns]``, int64, to ``[..., num_columns, width]``. An id out of range is an error (outside of
        saved programs: those raise Paddle's own).
    """

    def __init__(self, vocab_sizes: Sequence[int], width: int, *, std: float = 0.05) -> None:
        super().__init__()
        check_positive("width", width)
        for size in vocab_sizes:
            check_positive("vocab_sizes", size)
        self.vocab_sizes = tuple(vocab_sizes)
        attributes = paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, std))
        self.tables = nn.LayerList(
            [nn.Embedding(size, width, weight_attr=attributes) for size in vocab_sizes]
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of the categories."""
        _check_ids("categories", ids, self.vocab_sizes, "[..., num_columns]")
        return paddle.stack([table(ids[..., i]) for i, table in enumerate(self.tables)], axis=-2)


class BagEmbedding(nn.Layer):
    """For each column of lists of categories, the mean of their vectors; of an empty list, zeros.

    Args:
        vocab_sizes: number of categories of each column.
        width: width of the vectors.
        std: standard deviation of the initial vectors.

    Shapes:
        ids ``[batch_size, num_columns, length]``, int64, and lengths ``[batch_size, num_columns]`` to
        ``[batch_size, num_columns, width]``. What stands behind a list's length does not matter.
    """

    def __init__(self, vocab_sizes: Sequence[int], width: int, *, std: float = 0.05) -> None:
        super().__init__()
        self.embedding = CategoryEmbedding(vocab_sizes, width, std=std)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the mean vectors."""
        count = len(self.embedding.tables)
        check_tensor("bags", ids, _INTEGERS)
        check_shape("bags", ids, [UNKNOWN, count, UNKNOWN], "[batch_size, num_columns, length]")
        check_tensor("bag_lengths", lengths, _INTEGERS)
        check_shape("bag_lengths", lengths, [ids.shape[0], count], "[batch_size, num_columns]")
        masks = [length_mask(lengths[:, i], ids[:, i]) for i in range(count)]
        is_real = paddle.stack(masks, axis=1)
        ids = paddle.where(is_real, ids, paddle.zeros_like(ids))
        vectors = self.embedding(ids.transpose([0, 2, 1]))
        return paddle.stack([mean_pool(vectors[:, :, i], mask) for i, mask in enumerate(masks)], axis=1)


class NumberScaling(nn.Layer):
    """Columns of numbers, standardized, and which are missing.

    Args:
        count: number of columns.

    Shapes:
        numbers ``[batch_size, count]``, float, NaN = missing, to ``(x - mean) / std`` with 0 for what is missing, and
        to 1.0 where it is missing and 0.0 elsewhere, both of this shape. ``mean`` and ``std`` are buffers (saved with
        the model), 0 and 1 until :meth:`fit`.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        check_positive("count", count)
        self.count = count
        self.register_buffer("mean", paddle.zeros([count]))
        self.register_buffer("std", paddle.ones([count]))

    def fit(self, numbers: np.ndarray) -> None:
        """Take mean and standard deviation from training data ``[rows, count]``; missing values do not count.

        A column without any number keeps mean 0 and deviation 1, a constant one gets deviation 1.

        Raises:
            InvalidInputError: another shape, or an infinite number.
        """
        values = np.asarray(numbers, np.float64)
        if values.ndim != 2 or values.shape[1] != self.count or not len(values) or np.isinf(values).any():
            raise InvalidInputError(
                f"numbers: expected [rows, {self.count}] with at least one row, finite or NaN, got shape "
                f"{list(values.shape)}{' with an infinity' if np.isinf(values).any() else ''}"
            )
        is_known = ~np.isnan(values)
        count = np.maximum(is_known.sum(axis=0), 1)
        mean = np.where(is_known, values, 0.0).sum(axis=0) / count
        std = np.sqrt((np.where(is_known, values - mean, 0.0) ** 2).sum(axis=0) / count)
        self.mean.set_value(mean.astype(np.float32))
        self.std.set_value(np.where(std > 0, std, 1.0).astype(np.float32))

    def forward(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the standardized numbers and which are missing."""
        check_tensor("numbers", numbers, ("float32", "float64"))
        check_shape("numbers", numbers, [UNKNOWN, self.count], "[batch_size, num_numbers]")
        is_missing = paddle.isnan(numbers)
        scaled = (numbers.astype(self.mean.dtype) - self.mean) / self.std
        return paddle.where(is_missing, paddle.zeros_like(scaled), scaled), is_missing.astype(scaled.dtype)


class TableFeatures(nn.Layer):
    """All columns of a row: vectors of categories and lists, numbers with marks of missing ones.

    Args:
        vocab_sizes: number of categories of each column of categories.
        num_numbers: columns of numbers.
        bag_vocab_sizes: number of categories of each column of lists.
        width: width of the vectors.

    Shapes:
        categories ``[batch_size, len(vocab_sizes)]``, numbers ``[batch_size, num_numbers]``, bags
        ``[batch_size, len(bag_vocab_sizes), length]`` with lengths ``[batch_size, len(bag_vocab_sizes)]``; each is None
        if and only if there are no such columns. The result is ``[batch_size, size]`` with ``size`` = width times the
        number of columns of categories and lists, plus twice the numbers.
    """

    def __init__(
        self,
        vocab_sizes: Sequence[int],
        num_numbers: int = 0,
        bag_vocab_sizes: Sequence[int] = (),
        *,
        width: int = 16,
    ) -> None:
        super().__init__()
        self.fields = CategoryEmbedding(vocab_sizes, width) if vocab_sizes else None
        self.scaling = NumberScaling(num_numbers) if num_numbers else None
        self.bags = BagEmbedding(bag_vocab_sizes, width) if bag_vocab_sizes else None
        self.size = width * (len(vocab_sizes) + len(bag_vocab_sizes)) + 2 * num_numbers
        if not self.size:
            raise InvalidInputError("expected at least one column of categories, lists or numbers, got none")

    def vectors(
        self, categories: Tensor | None, bags: Tensor | None, bag_lengths: Tensor | None
    ) -> Tensor | None:
        """Return the vectors of categories and lists, ``[batch_size, columns, width]``; None if there are none."""
        check_given("categories", categories, self.fields is not None)
        check_given("bags", bags, self.bags is not None)
        check_given("bag_lengths", bag_lengths, self.bags is not None)
        parts = []
        if self.fields is not None:
            parts.append(self.fields(categories))
        if self.bags is not None:
            parts.append(self.bags(bags, bag_lengths))
        if not parts:
            return None
        return paddle.concat(parts, axis=1)

    def scaled(self, numbers: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Return standardized numbers and which are missing; None if there are no columns."""
        check_given("numbers", numbers, self.scaling is not None)
        return None if self.scaling is None else self.scaling(numbers)

    def forward(
        self,
        categories: Tensor | None = None,
        numbers: Tensor | None = None,
        bags: Tensor | None = None,
        bag_lengths: Tensor | None = None,
    ) -> Tensor:
        """Return all of a row in one vector."""
        vectors, scaled = self.vectors(categories, bags, bag_lengths), self.scaled(numbers)
        parts = [] if vectors is None else [vectors.flatten(1)]
        return paddle.concat(parts if scaled is None else [*parts, *scaled], axis=-1)


def check_given(name: str, value: Any, is_expected: bool) -> None:
    """Raise unless a tensor is there if and only if the model has columns for it.

    Raises:
        InvalidInputError: it is not.
    """
    if (value is not None) != is_expected:
        expected, found = (
            ("a tensor", "None") if is_expected else ("None: the model has no such columns", "one")
        )
        raise InvalidInputError(f"{name}: expected {expected}, got {found}")


def _check_ids(name: str, ids: Any, sizes: tuple[int, ...], meaning: str) -> None:
    check_tensor(name, ids, _INTEGERS)
    if ids.ndim < 1 or ids.shape[-1] not in (len(sizes), UNKNOWN):
        raise InvalidInputError(
            f"{name}: expected {len(sizes)} columns ({meaning}), got shape {list(ids.shape)}"
        )
    if paddle.in_dynamic_mode() and ids.size:
        values = ids.numpy().reshape(-1, len(sizes))
        low, high = values.min(axis=0), values.max(axis=0)
        for column, size in enumerate(sizes):
            if low[column] < 0 or high[column] >= size:
                wrong = low[column] if low[column] < 0 else high[column]
                raise InvalidInputError(f"{name}: column {column}: expected ids in [0, {size}), got {wrong}")


# Graph capture shall call them as they are: they are about what is known before a program runs.
for _check in (check_given, _check_ids):
    unified(_check)
