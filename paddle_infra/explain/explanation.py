"""One example with names to its attributions: tokens of a text, or columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.explain.attributions import Attributions


@dataclass(frozen=True)
class Explanation:
    """What spoke for and against one score.

    Attributes:
        features: names of tokens or columns.
        attributions: as many numbers; positive ones speak for the target.
        label: name of the explained class.
        target: its number.
        probability: of that class.
        score: the explained number.
        baseline_score: for the baseline.
        method: how the attributions were found.
        values: of the columns, as text; empty for tokens.
        title: heads the example where several are shown.
    """

    features: tuple[str, ...]
    attributions: tuple[float, ...]
    label: str
    target: int
    probability: float
    score: float
    baseline_score: float
    method: str
    values: tuple[str, ...] = ()
    title: str = ""

    def __post_init__(self) -> None:
        sizes = {len(self.features), len(self.attributions), len(self.values or self.features)}
        if len(sizes) != 1:
            raise InvalidInputError(
                f"explanation: expected as many attributions and values as features, got {len(self.features)} "
                f"features, {len(self.attributions)} attributions, {len(self.values)} values"
            )

    @property
    def delta(self) -> float:
        """The sum of the attributions less the difference of the scores: see :attr:`Attributions.delta`."""
        return float(sum(self.attributions) - (self.score - self.baseline_score))

    def grouped(self, groups: Sequence[int | None], names: Sequence[str]) -> Explanation:
        """Add up the attributions of features that belong together: sub-words to words.

        Args:
            groups: for every feature the index of its name, or None for those that are left out, such as special
                tokens: ``word_ids`` of a tokenizer.
            names: the words.

        Raises:
            InvalidInputError: not a group for each feature, a group has no name, or one that is left out has an
                attribution.
        """
        if len(groups) != len(self.features):
            raise InvalidInputError(
                f"groups: expected {len(self.features)}, one for each feature, got {len(groups)}"
            )
        sums = np.zeros(len(names))
        for group, feature, value in zip(groups, self.features, self.attributions, strict=True):
            if group is None:
                if value != 0.0:
                    raise InvalidInputError(
                        f"groups: expected one for {feature!r}, which has attribution {value:.4g}, got None: keep such "
                        "tokens in the baseline"
                    )
            elif not 0 <= group < len(names):
                raise InvalidInputError(f"groups: expected below {len(names)} names, got {group}")
            else:
                sums[group] += value
        return replace(self, features=tuple(names), attributions=tuple(sums.tolist()), values=())

    def grouped_by_offsets(self, offsets: Sequence[tuple[int, int]], text: str) -> Explanation:
        """Add up the attributions of sub-words between white space.

        Args:
            offsets: for every feature its first character in the text and the one after its last; equal for special
                tokens.
            text: what the tokens are of.

        Raises:
            InvalidInputError: as for :meth:`grouped`.
        """
        word_of, words, is_open = [], list[str](), False
        for character in text:
            if character.isspace():
                is_open = False
            elif is_open:
                words[-1] += character
            else:
                words.append(character)
                is_open = True
            word_of.append(len(words) - 1)

        def group(start: int, end: int) -> int | None:
            # A tokenizer may count the space before a word to its first piece.
            inside = [index for index in range(start, end) if not text[index].isspace()]
            return word_of[inside[0]] if inside else None

        return self.grouped([group(start, end) for start, end in offsets], words)

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the features with the largest attributions, of either sign."""
        order = sorted(range(len(self.features)), key=lambda i: -abs(self.attributions[i]))
        return [(self.features[i], self.attributions[i]) for i in order[:count]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        fields = ("title", "label", "target", "probability", "score", "baseline_score", "delta", "method")
        values = {name: getattr(self, name) for name in fields}
        lists = {name: list(getattr(self, name)) for name in ("features", "values", "attributions")}
        return values | lists

    def __str__(self) -> str:
        """Return a table with bars: ``-`` to the left is against, ``+`` to the right is for the target."""
        head = f"{self.title}: " if self.title else ""
        head += f"{self.label}, probability {self.probability:.4f} ({self.method}, delta {self.delta:+.2g})"
        width = max((len(name) for name in self.features), default=0)
        value_width = max((len(value) for value in self.values), default=0)
        largest = max((abs(value) for value in self.attributions), default=0.0) or 1.0
        lines = [head]
        for index, (name, value) in enumerate(zip(self.features, self.attributions, strict=True)):
            shown = f"  {self.values[index]:>{value_width}}" if self.values else ""
            length = round(abs(value) / largest * 20)
            against, speaks_for = ("-" * length, "") if value < 0 else ("", "+" * length)
            lines.append(f"{name:{width}}{shown}  {value:+.4f}  {against:>20}|{speaks_for}".rstrip())
        return "\n".join(lines)


def token_explanations(
    attributions: Attributions,
    name: str,
    tokens: Sequence[Sequence[str]],
    *,
    labels: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
) -> list[Explanation]:
    """Give tokens to attributions ``[batch, length]`` or ``[batch, length, width]``; the last axis is summed.

    Args:
        attributions: of :func:`integrated_gradients` or :func:`occlusion`.
        name: of the layer or input that has the tokens.
        tokens: for every row its tokens; what is behind them is padding.
        labels: names of the classes.
        titles: for every row.

    Raises:
        InvalidInputError: the name or the numbers do not fit, or padding has an attribution.
    """
    if name not in attributions.values:
        raise InvalidInputError(f"name: expected one of {sorted(attributions.values)}, got {name!r}")
    array = attributions.values[name]
    if array.ndim not in (2, 3):
        raise InvalidInputError(
            f"name: expected attributions [batch, length, …] of tokens, got {list(array.shape)}"
        )
    sums = array if array.ndim == 2 else array.sum(axis=-1)
    _check_rows("tokens", tokens, len(sums))
    result = []
    for row, names in enumerate(tokens):
        if len(names) > sums.shape[1] or np.any(sums[row, len(names) :]):
            raise InvalidInputError(
                f"tokens: expected one for each of {sums.shape[1]} places of row {row} that is no padding, got "
                f"{len(names)}: keep padding in the baseline"
            )
        result.append(_explanation(attributions, row, names, sums[row, : len(names)], (), labels, titles))
    return result


def feature_explanations(
    attributions: Attributions,
    names: Mapping[str, str | Sequence[str]],
    *,
    values: Sequence[Sequence[object]] | None = None,
    labels: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
) -> list[Explanation]:
    """Give names to attributions of a table.

    Args:
        attributions: of :func:`integrated_gradients` or :func:`occlusion`.
        names: for every input and layer one name for all its numbers (an embedded category), or one for each place of
            the second axis (columns); further axes are summed.
        values: for every row the values to show, in the order of the names.
        labels: names of the classes.
        titles: for every row.

    Raises:
        InvalidInputError: names or numbers do not fit.
    """
    if set(names) != set(attributions.values):
        raise InvalidInputError(
            f"names: expected those of {sorted(attributions.values)}, got {sorted(names)}"
        )
    batch = len(attributions.target)
    columns, flat = [], list[str]()
    for source, given in names.items():
        array = attributions.values[source]
        if isinstance(given, str):
            columns.append(array.reshape(batch, -1).sum(axis=1, keepdims=True))
            flat.append(given)
            continue
        places = array.shape[1] if array.ndim > 1 else 1
        if len(given) != places:
            raise InvalidInputError(f"names[{source!r}]: expected {places} names, got {len(given)}")
        columns.append(array.reshape(batch, places, -1).sum(axis=-1))
        flat += given
    table = np.concatenate(columns, axis=1)
    if values is not None:
        _check_rows("values", values, batch)
    shown = [()] * batch if values is None else [tuple(_text(value) for value in row) for row in values]
    return [
        _explanation(attributions, row, flat, table[row], shown[row], labels, titles) for row in range(batch)
    ]


def _text(value: object) -> str:
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return "missing"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _check_rows(name: str, rows: Sequence[Any], batch: int) -> None:
    if len(rows) != batch:
        raise InvalidInputError(f"{name}: expected {batch}, one for each row, got {len(rows)}")


def _explanation(
    attributions: Attributions,
    row: int,
    names: Sequence[str],
    numbers: np.ndarray,
    values: tuple[str, ...],
    labels: Sequence[str] | None,
    titles: Sequence[str] | None,
) -> Explanation:
    target = int(attributions.target[row])
    if labels is not None and target >= len(labels):
        raise InvalidInputError(f"labels: expected a name for class {target}, got {len(labels)} names")
    if titles is not None:
        _check_rows("titles", titles, len(attributions.target))
    return Explanation(
        features=tuple(names),
        attributions=tuple(numbers.tolist()),
        label=f"class {target}" if labels is None else labels[target],
        target=target,
        probability=float(attributions.probability[row]),
        score=float(attributions.score[row]),
        baseline_score=float(attributions.baseline_score[row]),
        method=attributions.method,
        values=values,
        title="" if titles is None else titles[row],
    )
