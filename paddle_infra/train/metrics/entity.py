"""Streaming metrics for BIO tags: entities as conlleval counts them, and single tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.batches import IGNORE_INDEX
from paddle_infra.train.metrics.classification import (
    ConfusionMatrix,
    Score,
    average_scores,
    class_scores,
    labels_and_predictions,
    mean_scores,
    score,
)

OUTSIDE = "O"


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return the entities of a tag sequence as (type, first, last + 1), by conlleval's rules.

    An entity starts at ``B-X``, and at ``I-X`` after ``O`` or after a tag of another type; so IOB1 and IOB2
    are both read right and a sequence that breaks the scheme still has a meaning.

    Raises:
        InvalidInputError: a tag is not ``O``, ``B-X`` or ``I-X``.

    References:
        Tjong Kim Sang and De Meulder, Introduction to the CoNLL-2003 shared task, 2003 (``conlleval``).
    """
    found: list[tuple[str, int, int]] = []
    start, kind = 0, ""
    for index, tag in enumerate((*tags, OUTSIDE)):
        prefix, new_kind = split_tag(tag)
        if kind and (prefix != "I" or new_kind != kind):
            found.append((kind, start, index))
            kind = ""
        if prefix != OUTSIDE and not kind:
            start, kind = index, new_kind
    return found


def split_tag(tag: str) -> tuple[str, str]:
    """Split ``B-PER`` into ("B", "PER"); ``O`` gives ("O", "").

    Raises:
        InvalidInputError: it is neither.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, _, kind = tag.partition("-")
    if prefix not in ("B", "I") or not kind:
        raise InvalidInputError(f"tag: expected 'O', 'B-<type>' or 'I-<type>', got {tag!r}")
    return prefix, kind


class EntityF1:
    """Entity-level precision, recall and F1: an entity counts as found if its type and both ends are right.

    The evaluation step returns ``labels`` [batch, length] and ``predictions`` (same shape) or ``logits``
    [batch, length, tags]. Positions whose label is ``ignore_index`` (padding, sub-words) are removed first.

    Args:
        names: BIO tags by index.
        ignore_index: label of positions to remove.
    """

    def __init__(self, names: Sequence[str], *, ignore_index: int = IGNORE_INDEX) -> None:
        self.names, self.ignore_index = list(names), ignore_index
        self.types = sorted({kind for _, kind in map(split_tag, self.names) if kind})
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self._hits: Counter[str] = Counter()
        self._predicted: Counter[str] = Counter()
        self._gold: Counter[str] = Counter()

    def update(self, *, labels: Any = None, predictions: Any = None, logits: Any = None, **_: Any) -> None:
        """Add one batch.

        Raises:
            InvalidInputError: an input is missing, has the wrong shape, or a tag index is out of range.
        """
        labels, predictions = labels_and_predictions("EntityF1", labels, predictions, logits)
        if labels.ndim != 2:
            raise InvalidInputError(
                f"EntityF1: expected labels [batch, length], got shape {list(labels.shape)}"
            )
        for gold, predicted in zip(labels, predictions, strict=True):
            valid = gold != self.ignore_index
            self.update_tags(self._tags(gold[valid]), self._tags(predicted[valid]))

    def update_tags(self, gold: Sequence[str], predicted: Sequence[str]) -> None:
        """Add one sequence given as tags.

        Raises:
            InvalidInputError: the lengths differ, or a tag is not BIO.
        """
        if len(gold) != len(predicted):
            raise InvalidInputError(f"EntityF1: expected {len(gold)} predicted tags, got {len(predicted)}")
        true, found = set(entities(gold)), set(entities(predicted))
        self._gold.update(kind for kind, _, _ in true)
        self._predicted.update(kind for kind, _, _ in found)
        self._hits.update(kind for kind, _, _ in true & found)

    def state(self) -> tuple[Counter[str], ...]:
        """Return the counts."""
        return self._hits, self._predicted, self._gold

    def add_state(self, state: tuple[Counter[str], ...]) -> None:
        """Add the counts of another process."""
        for own, other in zip(self.state(), state, strict=True):
            own.update(other)

    def compute(self) -> dict[str, float]:
        """Return ``entity_precision``, ``entity_recall`` and ``entity_f1`` over all entities."""
        micro = self.averages()[0]
        return {"entity_precision": micro.precision, "entity_recall": micro.recall, "entity_f1": micro.f1}

    def table(self) -> list[Score]:
        """Return one row per entity type, by name."""
        return [
            score(kind, self._hits[kind], self._predicted[kind], self._gold[kind]) for kind in self._kinds()
        ]

    def averages(self) -> list[Score]:
        """Return the rows "micro", "macro" and "weighted"; the last two over the types that occur."""
        micro = score("micro", self._hits.total(), self._predicted.total(), self._gold.total())
        return [
            micro,
            *mean_scores([r for r in self.table() if self._gold[r.name] or self._predicted[r.name]]),
        ]

    def _kinds(self) -> list[str]:
        return sorted({*self.types, *self._gold, *self._predicted})

    def _tags(self, indices: Any) -> list[str]:
        wrong = indices[(indices < 0) | (indices >= len(self.names))]
        if wrong.size:
            raise InvalidInputError(
                f"EntityF1: expected a tag index from 0 to {len(self.names) - 1}, got {int(wrong[0])}"
            )
        return [self.names[i] for i in indices]


class TokenTable(ConfusionMatrix):
    """Precision, recall, F1 and support of every tag, with averages over all tags and over all but ``O``.

    ``O`` is most of a text and easy, so averages with it look far better than the entity F1 of the same
    output: compare like with like. Inputs: see :class:`~paddle_infra.train.metrics.classification.ConfusionMatrix`.
    """

    def compute(self) -> dict[str, float]:
        """Return ``token_<average>_f1`` and ``token_<average>_f1_without_O``."""
        values = {f"token_{row.name}_f1": row.f1 for row in self.averages()}
        return values | {
            f"token_{row.name}_f1_without_O": row.f1 for row in self.averages(with_outside=False)
        }

    def table(self) -> list[Score]:
        """Return one row per tag, in the order of the names."""
        return class_scores(self.matrix, self.names)

    def averages(self, *, with_outside: bool = True) -> list[Score]:
        """Return the rows "micro", "macro" and "weighted" over all tags, or over all but ``O``."""
        classes = [i for i, name in enumerate(self.names) if with_outside or name != OUTSIDE]
        return average_scores(self.matrix, classes)
