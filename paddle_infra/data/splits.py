"""Remove duplicates and split without leaks: no text of one split is, normalised, in another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np

from paddle_infra._core.errors import DataError, InvalidInputError
from paddle_infra.data.clean import text_key
from paddle_infra.data.examples import TextExample, TokenExample

Example = TypeVar("Example", TextExample, TokenExample)

_SHOWN = 3  # examples quoted in an error


def example_key(example: TextExample | TokenExample) -> str:
    """Return the key under which two examples are the same text, see :func:`paddle_infra.data.text_key`."""
    return text_key(example.text if isinstance(example, TextExample) else " ".join(example.tokens))


def deduplicate(
    examples: Sequence[Example], *, on_conflict: Literal["error", "first", "drop"] = "error"
) -> list[Example]:
    """Return the examples, in order, with the first of each normalised text only.

    Args:
        examples: the examples.
        on_conflict: what to do if the same text has different labels: raise, keep the first, or drop the
            text.

    Raises:
        DataError: the same text has different labels, and ``on_conflict`` is ``"error"``; names texts, labels
            and lines.
        InvalidInputError: ``on_conflict`` is none of the values above.
    """
    if on_conflict not in ("error", "first", "drop"):
        raise InvalidInputError(f"expected on_conflict 'error', 'first' or 'drop', got {on_conflict!r}")
    conflicts = find_conflicts(examples)
    if conflicts and on_conflict == "error":
        shown = "; ".join(
            f"{_quote(group[0])} is "
            + ", ".join(f"{_label(e)!r} in line {e.line}" for e in _one_per_label(group))
            for group in conflicts[:_SHOWN]
        )
        raise DataError(f"expected one label per text, {len(conflicts)} texts have several: {shown}")
    dropped = {example_key(group[0]) for group in conflicts} if on_conflict == "drop" else set()
    first: dict[str, Example] = {}
    for example in examples:
        key = example_key(example)
        if key not in dropped:
            first.setdefault(key, example)
    return list(first.values())


def find_conflicts(examples: Sequence[Example]) -> list[list[Example]]:
    """Return, for every normalised text that has more than one label, all its examples."""
    return [group for group in _groups(examples) if len({_label(e) for e in group}) > 1]


def split(
    examples: Sequence[Example], fractions: Mapping[str, float], *, seed: int, stratify: bool = True
) -> dict[str, list[Example]]:
    """Split at random, reproducibly, so that the same normalised text is never in two splits.

    Texts are dealt out one by one, each to the split that lags furthest behind its share; with ``stratify``
    one label after another, so that the proportions hold for each of them (a sentence counts under its rarest
    tag). Within a split the order of ``examples`` is kept.

    Args:
        examples: the examples; repeated texts stay together in one split.
        fractions: positive parts with the sum 1, for example ``{"train": 0.8, "test": 0.2}``.
        seed: of the random order.
        stratify: keep the proportions of the labels in each split.

    Raises:
        InvalidInputError: fractions that are not positive or do not sum to 1.
        DataError: a split would be empty.
    """
    parts = np.array(list(fractions.values()), dtype=np.float64)
    if not fractions or not np.all(parts > 0) or abs(parts.sum() - 1) > 1e-6:
        raise InvalidInputError(f"expected positive fractions with the sum 1, got {dict(fractions)}")
    members: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        members.setdefault(example_key(example), []).append(index)
    groups = list(members.values())
    order = np.random.default_rng(seed).permutation(len(groups))
    if stratify:
        strata = _strata(examples)
        # A stable sort: random inside a stratum.
        order = np.array(sorted(order, key=lambda g: strata[groups[g][0]]), dtype=np.int64)
    chosen: list[list[int]] = [[] for _ in parts]
    sizes = np.zeros(len(parts))
    for group in order:
        owed = parts * (sizes.sum() + len(groups[group])) - sizes
        target = int(np.argmax(owed))
        chosen[target] += groups[group]
        sizes[target] += len(groups[group])
    result = {
        name: [examples[i] for i in sorted(indices)] for name, indices in zip(fractions, chosen, strict=True)
    }
    for name, part in result.items():
        if not part:
            raise DataError(
                f"expected examples in each split, {name!r} ({fractions[name]:g}) gets none of "
                f"{len(examples)} examples ({len(groups)} different texts)"
            )
    _assert_disjoint(result)
    return result


def assert_no_leak(
    first: Sequence[TextExample | TokenExample], second: Sequence[TextExample | TokenExample]
) -> None:
    """Check that no normalised text is in both.

    Raises:
        DataError: some are; the message counts them and quotes the first ones with their lines.
    """
    _assert_disjoint({"first": first, "second": second})


def _assert_disjoint(parts: Mapping[str, Sequence[TextExample | TokenExample]]) -> None:
    owner: dict[str, tuple[str, TextExample | TokenExample]] = {}
    leaks: dict[str, str] = {}
    for name, part in parts.items():
        for example in part:
            key = example_key(example)
            other, seen = owner.setdefault(key, (name, example))
            if other != name:
                leaks.setdefault(
                    key, f"{_quote(example)} (line {seen.line} of {other}, {example.line} of {name})"
                )
    if leaks:
        shown = "; ".join(list(leaks.values())[:_SHOWN])
        raise DataError(f"expected no text in two splits, {len(leaks)} texts are: {shown}")


def _groups(examples: Sequence[Example]) -> list[list[Example]]:
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example_key(example), []).append(example)
    return list(groups.values())


def _strata(examples: Sequence[Example]) -> list[str]:
    """Return one label per example: its own, or the rarest tag of its sentence."""
    counts = Counter(tag for e in examples if isinstance(e, TokenExample) for tag in set(e.labels or ()))
    strata = []
    for example in examples:
        if isinstance(example, TextExample):
            strata.append(example.label or "")
        else:
            strata.append(min(set(example.labels or ("",)), key=lambda tag: (counts[tag], tag)))
    return strata


def _label(example: TextExample | TokenExample) -> str | None:
    if isinstance(example, TextExample):
        return example.label
    return None if example.labels is None else " ".join(example.labels)


def _one_per_label(group: Sequence[Example]) -> list[Example]:
    first: dict[str | None, Example] = {}
    for example in group:
        first.setdefault(_label(example), example)
    return list(first.values())


def _quote(example: TextExample | TokenExample) -> str:
    text = example.text if isinstance(example, TextExample) else " ".join(example.tokens)
    return repr(text if len(text) <= 60 else text[:57] + "...")
