"""Inputs at the edges: the smallest and the largest sizes, values at their limits, rows with a single token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.export.cases import resized
from paddle_infra.export.spec import Arrays, TensorSpec

LARGE_MAGNITUDES = "large magnitudes"
_FACTOR = 100.0


@dataclass(frozen=True)
class Limits:
    """What a model takes at most.

    Attributes:
        max_sizes: the largest size of a dynamic axis, by its name.
        value_ranges: the smallest and the largest value of an integer input, by its name.
    """

    max_sizes: Mapping[str, int] = field(default_factory=dict)
    value_ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def find_limits(
    model: Any,
    specs: Sequence[TensorSpec],
    max_sizes: Mapping[str, int] | None,
    value_ranges: Mapping[str, tuple[int, int]] | None,
) -> Limits:
    """Combine what the user says with the model's ``config``, where it has the field's usual names.

    ``max_position_embeddings`` limits every axis of ``input_ids`` but the first, ``vocab_size`` its values, and
    ``type_vocab_size`` those of ``token_type_ids``.

    Raises:
        InvalidInputError: an unknown axis or input, a size below 1, or a range that is none.
    """
    axes = {name for spec in specs for name in spec.axes.values()}
    integers = {spec.name for spec in specs if np.dtype(spec.dtype).kind in "iu"}
    sizes, ranges = dict(max_sizes or {}), {name: tuple(pair) for name, pair in (value_ranges or {}).items()}
    if not set(sizes) <= axes or any(size < 1 for size in sizes.values()):
        raise InvalidInputError(f"max_sizes: expected sizes >= 1 of the axes {sorted(axes)}, got {sizes}")
    if not set(ranges) <= integers or any(len(pair) != 2 or pair[0] > pair[1] for pair in ranges.values()):
        raise InvalidInputError(
            f"value_ranges: expected (lowest, highest) of the integer inputs {sorted(integers)}, got {ranges}"
        )
    config = getattr(model, "config", None)
    for spec in specs:
        count = getattr(config, _VOCABULARIES.get(spec.name, ""), None)
        if count is not None and spec.name in integers:
            ranges.setdefault(spec.name, (0, count - 1))
        longest = getattr(config, "max_position_embeddings", None)
        if longest is not None and spec.name == "input_ids":
            for axis in set(spec.axes) - {0}:
                sizes.setdefault(spec.axes[axis], longest)
    return Limits(sizes, {name: (pair[0], pair[1]) for name, pair in ranges.items()})


_VOCABULARIES = {"input_ids": "vocab_size", "token_type_ids": "type_vocab_size"}


def edge_cases(
    examples: Arrays, specs: Sequence[TensorSpec], limits: Limits, seed: int = 0
) -> dict[str, Arrays]:
    """Return inputs by the name of their edge; a model may refuse some.

    Integers are at the ends of their range, or of the example's where none is known; floating-point inputs at the
    example's smallest and largest value, and 100 times the example. A mask (integers or booleans, all 0 or 1, of two
    axes or more) keeps its pattern, and in one case only its first column. Every dynamic axis has size 1 in one case,
    and its largest, as far as known, in another.
    """
    cases = {
        "lowest values": _extreme(examples, limits, 0),
        "highest values": _extreme(examples, limits, 1),
    }
    masks = {name for name, array in examples.items() if _is_mask(array)}
    if masks:
        cases["all padding but one"] = {
            name: _only_first(array) if name in masks else array for name, array in examples.items()
        }
    if any(array.dtype.kind == "f" for array in examples.values()):
        cases[LARGE_MAGNITUDES] = {
            name: array * array.dtype.type(_FACTOR) if array.dtype.kind == "f" else array
            for name, array in examples.items()
        }
    names = list(dict.fromkeys(name for spec in specs for name in spec.axes.values()))
    generator = np.random.default_rng(seed)
    if names:
        cases["size 1"] = resized(examples, specs, dict.fromkeys(names, 1), generator)
    if limits.max_sizes:
        largest = {name: limits.max_sizes.get(name, 1) for name in names}
        cases["largest sizes"] = resized(examples, specs, largest, generator)
    return cases


def _is_mask(array: np.ndarray) -> bool:
    return bool(array.dtype.kind in "iub" and array.ndim >= 2 and np.isin(array, (0, 1)).all())


def _extreme(examples: Arrays, limits: Limits, which: int) -> Arrays:
    def ends(name: str, array: np.ndarray) -> tuple[Any, Any]:
        return limits.value_ranges.get(name, (array.min(), array.max()))

    return {
        name: array
        if _is_mask(array) and name not in limits.value_ranges
        else np.full_like(array, ends(name, array)[which])
        for name, array in examples.items()
    }


def _only_first(mask: np.ndarray) -> np.ndarray:
    case = np.zeros_like(mask)
    case[..., 0] = 1
    return case
