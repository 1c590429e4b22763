"""Samples to one batch of rectangular arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.data.dataset import IGNORED_LABEL, Sample

Batch = dict[str, npt.NDArray[np.int64]]


class PaddingCollator:
    """Pad on the right to the longest sample of the batch.

    A batch of B samples, the longest of S sub-words, all int64: ``input_ids``, ``token_type_ids`` and
    ``attention_mask`` (1 = real, 0 = padding) [B, S]; ``labels`` [B] for one label per sample, [B, S] for one
    per position (padding: -100), absent for unlabelled samples.

    Args:
        pad_id: input id of padding.
        pad_to_multiple: round S up to a multiple of this (fewer different shapes to compile for).

    Raises:
        InvalidInputError: ``pad_id`` is negative or ``pad_to_multiple`` is below 1.
    """

    def __init__(self, pad_id: int, *, pad_to_multiple: int = 1) -> None:
        if pad_id < 0 or pad_to_multiple < 1:
            raise InvalidInputError(
                f"expected pad_id >= 0 and pad_to_multiple >= 1, got {pad_id} and {pad_to_multiple}"
            )
        self._pad_id, self._multiple = pad_id, pad_to_multiple

    def __call__(self, samples: Sequence[Mapping[str, list[int] | int]]) -> Batch:
        """Return the batch.

        Raises:
            InvalidInputError: no samples, an empty sample, fields of different lengths, or samples whose
                ``labels`` are of different kinds.
        """
        if not samples:
            raise InvalidInputError("expected at least one sample, got none")
        rows = [_row(sample) for sample in samples]
        longest = max(len(row) for row in rows)
        width = -(-longest // self._multiple) * self._multiple
        batch = {
            "input_ids": _padded(rows, width, self._pad_id),
            "token_type_ids": _padded([_same_length(s, "token_type_ids") for s in samples], width, 0),
            "attention_mask": _padded([[1] * len(row) for row in rows], width, 0),
        }
        kinds = {type(sample.get("labels")) for sample in samples}
        if kinds == {list}:
            batch["labels"] = _padded([_same_length(s, "labels") for s in samples], width, IGNORED_LABEL)
        elif kinds == {int}:
            batch["labels"] = np.array([sample["labels"] for sample in samples], dtype=np.int64)
        elif kinds != {type(None)}:  # a float, say, would silently lose its fraction
            names = sorted(kind.__name__ for kind in kinds)
            raise InvalidInputError(
                f"expected labels of one kind in all samples of a batch (int, or list, or none), got {names}"
            )
        return batch


def _row(sample: Mapping[str, list[int] | int]) -> list[int]:
    row = sample.get("input_ids")
    if not isinstance(row, list) or not row:
        raise InvalidInputError(f"expected a list input_ids that is not empty, got {row!r:.80}")
    return row


def _same_length(sample: Mapping[str, list[int] | int], key: str) -> list[int]:
    row, length = sample.get(key), len(_row(sample))
    if not isinstance(row, list) or len(row) != length:
        found = f"{len(row)} values" if isinstance(row, list) else repr(row)
        raise InvalidInputError(f"expected {length} values in {key!r}, as many as input_ids, got {found}")
    return row


def _padded(rows: Sequence[list[int]], width: int, value: int) -> npt.NDArray[np.int64]:
    out = np.full((len(rows), width), value, dtype=np.int64)
    for position, row in enumerate(rows):
        out[position, : len(row)] = row
    return out


__all__ = ["Batch", "PaddingCollator", "Sample"]
