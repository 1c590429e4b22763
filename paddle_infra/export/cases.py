"""The inputs an export is tried with: every dynamic axis at several sizes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddle_infra._core.errors import AxisMismatch, InvalidInputError
from paddle_infra.export.spec import Arrays, DynamicAxes, TensorSpec, as_arrays, axis_sizes, input_specs

BATCH_SIZES = (1, 7, 32)
"""Sizes tried for an axis that is the first of some input."""

LENGTHS = (5, 16, 64)
"""Sizes tried for every other dynamic axis."""


@dataclass(frozen=True)
class Case:
    """One set of inputs and the size that each dynamic axis has in it.

    If it ``is_scaled``, its numbers are so large that the tolerance grows with the largest expected one of an output
    and with the model's own rounding error, and integers, which may be the places of numbers that became equal, are not
    compared.
    """

    name: str
    inputs: Arrays
    sizes: dict[str, int]
    is_scaled: bool = False


def default_cases(
    example_inputs: Mapping[str, Any], dynamic_axes: DynamicAxes | None = None, *, seed: int = 0
) -> list[Arrays]:
    """Make inputs like the examples at every combination of sizes: batch 1, 7, 32 and length 5, 16, 64.

    The first is the example itself. In the others every value is drawn from the example's own values of that
    input, so identifiers stay in range; an input that holds only 0 and 1 (a mask, a segment) keeps the
    pattern of its rows, stretched to the new size. Axes that are neither a first axis nor dynamic keep their
    size. With more than one length axis, the lengths rotate instead of forming all combinations.

    Args:
        example_inputs: arrays by input name.
        dynamic_axes: as given to the exporter.
        seed: of the random draws.
    """
    arrays = as_arrays(example_inputs)
    names = {name for axes in (dynamic_axes or {}).values() for name in axes.values()}
    own = {name: axes for name, axes in (dynamic_axes or {}).items() if name in arrays}
    return cases_like(arrays, input_specs(arrays, own, sorted(names)), seed)


def cases_like(examples: Arrays, specs: Sequence[TensorSpec], seed: int = 0) -> list[Arrays]:
    """Do what :func:`default_cases` does, for axes already described by ``specs``."""
    rng = np.random.default_rng(seed)
    cases = [examples]
    return cases + [resized(examples, specs, sizes, rng) for sizes in _size_grid(specs)]


def resized(
    examples: Arrays, specs: Sequence[TensorSpec], sizes: Mapping[str, int], rng: np.random.Generator
) -> Arrays:
    """Make inputs like the examples in which each dynamic axis has the size that ``sizes`` says."""
    return {
        spec.name: _resample(
            examples[spec.name],
            tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape),
            rng,
        )
        for spec in specs
    }


def _size_grid(specs: Sequence[TensorSpec]) -> list[dict[str, int]]:
    names = list(dict.fromkeys(name for spec in specs for name in spec.axes.values()))
    first = [name for name in names if any(spec.axes.get(0) == name for spec in specs)]
    lengths = [name for name in names if name not in first]
    grid = []
    for batch, turn in itertools.product(
        BATCH_SIZES if first else (1,), range(len(LENGTHS)) if lengths else (0,)
    ):
        sizes = dict.fromkeys(first, batch)
        sizes.update({name: LENGTHS[(turn + i) % len(LENGTHS)] for i, name in enumerate(lengths)})
        grid.append(sizes)
    return grid


def _resample(example: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if np.isin(example, (0, 1)).all():
        indices = [np.arange(new) * old // new for old, new in zip(example.shape, shape, strict=True)]
        return np.ascontiguousarray(example[np.ix_(*indices)] if shape else example)
    return rng.choice(example.ravel(), size=shape).astype(example.dtype)


def as_cases(specs: Sequence[TensorSpec], inputs: Sequence[Mapping[str, Any]]) -> list[Case]:
    """Check the inputs to verify with, and name them.

    Raises:
        InvalidInputError: the list is empty.
        NameMismatch: a case lacks an input or has an unknown one.
        DtypeMismatch: an input has another dtype.
        AxisMismatch: a fixed axis has another size, or a dynamic axis has the same size in all cases, so
            that nothing would show that it may vary.
    """
    if not inputs:
        raise InvalidInputError("verification needs at least one set of inputs, got an empty list")
    cases = []
    for index, values in enumerate(inputs):
        arrays = as_arrays(values)
        sizes = axis_sizes(specs, arrays)
        text = ", ".join(f"{name}={size}" for name, size in sizes.items()) or "fixed shape"
        cases.append(Case(f"#{index} ({text})", arrays, sizes))
    for axis in dict.fromkeys(name for spec in specs for name in spec.axes.values()):
        seen = {case.sizes[axis] for case in cases}
        if len(seen) < 2:
            raise AxisMismatch(
                f"axis {axis!r} is declared dynamic: expected inputs with at least two sizes of it, "
                f"got only {axis}={seen.pop()} in {len(cases)} case(s)"
            )
    return cases
