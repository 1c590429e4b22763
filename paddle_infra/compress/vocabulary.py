"""Vocabulary pruning: rows of embeddings that no text of a task needs are cut out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.atomic import write_json
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from paddle_infra.compress.sublayers import Layer, set_parameter, target_of


@dataclass(frozen=True)
class VocabularyMap:
    """From a tokenizer's ids to the rows that are left.

    Attributes:
        kept: the old ids that are left, rising: ``kept[new] == old``.
        old_size: rows before.
        unknown: the old id that stands for those cut out; None: such an id is an error.
    """

    kept: tuple[int, ...]
    old_size: int
    unknown: int | None = None

    def __call__(self, ids: Any) -> np.ndarray:
        """Return the new ids, int64, of old ones of any shape.

        Raises:
            InvalidDtypeError: they are no integers.
            InvalidInputError: an id is out of range, or cut out while ``unknown`` is None.
        """
        old = np.asarray(ids)
        if old.dtype.kind not in "iu":
            raise InvalidDtypeError(f"ids: expected integers, got {old.dtype}")
        if old.size and not 0 <= old.min() <= old.max() < self.old_size:
            raise InvalidInputError(
                f"ids: expected numbers from 0 to {self.old_size - 1}, got {old.min()} to {old.max()}"
            )
        table = np.full(self.old_size, -1, np.int64)
        table[list(self.kept)] = np.arange(len(self.kept))
        if self.unknown is not None:
            table = np.where(table < 0, table[self.unknown], table)
        new = table[old]
        if (new < 0).any():
            raise InvalidInputError(f"ids: expected ids that are left, {int(old[new < 0][0])} was cut out")
        return new

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map as JSON, for whoever tokenizes for the model: ``kept``, ``old_size``, ``unknown``."""
        write_json(path, dataclasses.asdict(self))


def prune_vocabulary(
    model: Layer,
    keep: Iterable[int],
    *,
    unknown: int | None = None,
    parameters: Sequence[str] = ("encoder.embeddings.word.weight",),
    in_place: bool = False,
) -> tuple[Layer, VocabularyMap]:
    """Keep only the rows of these token ids; the model's outputs for texts of kept tokens stay the same, bit for bit.

    The tokenizer is not changed: it goes on giving the old ids, and the map turns these into rows,
    ``model(vocabulary(ids))``. A text with a token that was cut out becomes one with ``unknown``, or an error. (To cut
    the tokenizer's own files instead would change how words are split.) Special tokens must be kept like others.

    A model whose ``config`` has ``vocab_size`` gets the new one, and ``pad_token_id`` too: ``save_pretrained`` works,
    but the tokenizer's files beside it still speak of old ids: keep the map with them (:meth:`VocabularyMap.save`).

    Args:
        model: the model.
        keep: token ids to keep, in any order.
        unknown: a kept id that stands for those cut out.
        parameters: names of all parameters with a row for every token, for a masked language model
            ``("encoder.embeddings.word.weight", "output_bias")``.
        in_place: change ``model`` itself instead of a copy.

    Returns:
        The model, and the map.

    Raises:
        InvalidInputError: no such parameter, parameters of different lengths, an id out of range, or an id that is
            needed (``unknown``, padding; in RoBERTa's family all up to padding) is not kept.
    """
    target = target_of(model, in_place=in_place)
    found = dict(target.named_parameters())
    if not parameters or any(name not in found for name in parameters):
        missing = [name for name in parameters if name not in found]
        raise InvalidInputError(
            f"parameters: expected names of parameters of the model, got {missing or parameters}"
        )
    sizes = {found[name].shape[0] for name in parameters}
    if len(sizes) != 1:
        raise InvalidInputError(f"parameters: expected as many rows in each, got {sorted(sizes)}")
    size = sizes.pop()
    config = getattr(target, "config", None)
    has_config = dataclasses.is_dataclass(config) and hasattr(config, "vocab_size")
    padding = getattr(config, "pad_token_id", None) if has_config else None
    kept = _checked(keep, size, {"unknown": unknown, "config.pad_token_id": padding})
    vocabulary = VocabularyMap(kept, size, unknown)
    for name, layer in target.named_sublayers():
        counted = getattr(layer, "padding_id", None)
        if counted is not None and vocabulary.kept[: counted + 1] != tuple(range(counted + 1)):
            raise InvalidInputError(
                f"keep: expected all ids from 0 to {counted}, because {name} counts positions from the padding's id, "
                f"which must not change, got {kept[: counted + 1]}"
            )
    rows = paddle.to_tensor(np.array(kept, np.int64))
    for name in parameters:
        layer, own = _owner(target, name)
        with paddle.no_grad():
            set_parameter(layer, own, paddle.index_select(found[name], rows, axis=0))
        if isinstance(layer, paddle.nn.Embedding):
            layer._num_embeddings = len(kept)
            if layer._padding_idx not in (None, -1):
                layer._padding_idx = int(vocabulary(layer._padding_idx))
    if has_config:
        changes: dict[str, Any] = {"vocab_size": len(kept)}
        if padding is not None:
            changes["pad_token_id"] = int(vocabulary(padding))
        target.config = dataclasses.replace(config, **changes)  # type: ignore[type-var]
    return target, vocabulary


def _checked(keep: Iterable[int], size: int, needed: dict[str, int | None]) -> tuple[int, ...]:
    kept = sorted({int(token) for token in keep})
    if not kept or not 0 <= kept[0] <= kept[-1] < size:
        raise InvalidInputError(
            f"keep: expected token ids from 0 to {size - 1}, got {kept[:1]} to {kept[-1:]}"
        )
    for name, token in needed.items():
        if token is not None and token not in kept:
            raise InvalidInputError(f"keep: expected {name} {token} among the kept ids, it is not")
    return tuple(kept)


def _owner(model: Layer, name: str) -> tuple[Layer, str]:
    path, _, own = name.rpartition(".")
    return (dict(model.named_sublayers())[path] if path else model), own
