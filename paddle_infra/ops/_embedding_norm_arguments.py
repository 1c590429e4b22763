"""Checks and converts the arguments of embedding_norm, for every implementation of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle

from paddle_infra._core.checks import (
    UNKNOWN,
    check_integer,
    check_shape,
    check_tensor,
    device_of,
    dtype_name,
)
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.ops._norm_arguments import FLOATS, check_like, check_numbers, check_weights

_INTEGERS = ("int64", "int32")


@dataclass(frozen=True)
class Arguments:
    """Checked arguments of embedding_norm; indices are int64, ``dropout_p`` is 0 unless training."""

    ids: paddle.Tensor
    word: paddle.Tensor
    position: paddle.Tensor | None
    token_type: paddle.Tensor | None
    weight: paddle.Tensor | None
    bias: paddle.Tensor | None
    position_ids: paddle.Tensor | None
    token_type_ids: paddle.Tensor | None
    padding_idx: int | None
    is_rms: bool
    epsilon: float
    dropout_p: float


def check(
    ids: paddle.Tensor,
    word: paddle.Tensor,
    position: paddle.Tensor | None,
    token_type: paddle.Tensor | None,
    weight: paddle.Tensor | None,
    bias: paddle.Tensor | None,
    position_ids: paddle.Tensor | None,
    token_type_ids: paddle.Tensor | None,
    padding_idx: int | None,
    norm: str,
    epsilon: float,
    dropout_p: float,
    training: bool,
) -> Arguments:
    """Check everything that needs no computation, and the indices; return the arguments in final form."""
    check_tensor("word", word, FLOATS)
    _check_rows("word", word, UNKNOWN, "[V, D]")
    size = word.shape[1]
    for name, table in (("position", position), ("token_type", token_type)):
        if table is not None:
            check_like(name, table, "word", word)
            _check_rows(name, table, size, "[rows, D]")
    check_weights(weight, bias, "word", word, size)
    check_tensor("ids", ids, _INTEGERS)
    if len(ids.shape) != 2:
        raise InvalidInputError(f"ids: expected shape [batch_size, seq_len], got {list(ids.shape)}")
    if padding_idx is not None and not 0 <= check_integer("padding_idx", padding_idx) < word.shape[0]:
        raise InvalidInputError(
            f"padding_idx: expected None or a number in [0, {word.shape[0]}), got {padding_idx}"
        )
    numbers = check_numbers(norm, epsilon, dropout_p, training)
    return Arguments(
        _indices("ids", ids, word, "word", ids),
        word,
        position,
        token_type,
        weight,
        bias,
        _positions(position_ids, position, ids),
        _indices("token_type_ids", token_type_ids, token_type, "token_type", ids),
        padding_idx,
        *numbers,
    )


def _check_rows(name: str, table: Any, size: int, meaning: str) -> None:
    if len(table.shape) == 2:
        check_shape(name, table, [UNKNOWN, size], f"{meaning}, -1: any size")
    if len(table.shape) != 2 or 0 in table.shape:
        raise InvalidInputError(f"{name}: expected shape {meaning}, none of them 0, got {list(table.shape)}")


def _positions(position_ids: Any, position: Any, ids: paddle.Tensor) -> paddle.Tensor | None:
    """Check the given positions, or that there are enough rows for those from 0 on."""
    if position is not None and position_ids is None:
        length, rows = ids.shape[1], position.shape[0]
        if UNKNOWN not in (length, rows) and rows < length:
            raise InvalidInputError(
                f"position: expected at least {length} rows, a position for each token, got {rows}"
            )
    return _indices("position_ids", position_ids, position, "position", ids)


def _indices(name: str, indices: Any, table: Any, table_name: str, ids: Any) -> paddle.Tensor | None:
    """Check dtype, shape and values of indices into a table; return them as int64."""
    if indices is None:
        return None
    if table is None:
        raise InvalidInputError(f"{name}: expected None, because {table_name} is None, got a tensor")
    check_tensor(name, indices, _INTEGERS)
    expected, found = device_of(table), device_of(indices)
    if found != expected:
        raise InvalidInputError(
            f"{name}: expected a tensor on {expected}, where {table_name} is, got one on {found}"
        )
    shape = list(indices.shape)
    if len(shape) == 2:
        batch = ids.shape[0] if shape[0] != 1 else 1
        check_shape(name, indices, [batch, ids.shape[1]], "[batch_size, seq_len] or [seq_len]")
    else:
        check_shape(name, indices, [ids.shape[1]], "[batch_size, seq_len] or [seq_len]")
    if paddle.in_dynamic_mode():
        _check_values(name, indices, table.shape[0])
    return indices if dtype_name(indices) == "int64" else indices.astype("int64")


def _check_values(name: str, indices: paddle.Tensor, rows: int) -> None:
    values = indices.numpy()
    is_bad = (values < 0) | (values >= rows)
    if is_bad.any():
        place = tuple(int(axis[0]) for axis in is_bad.nonzero())
        raise InvalidInputError(f"{name}{list(place)}: expected a number in [0, {rows}), got {values[place]}")
