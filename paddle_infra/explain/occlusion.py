"""Occlusion: how far a score falls when a part of the input is replaced by the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.checks import check_positive
from paddle_infra._core.errors import InvalidInputError
from paddle_infra._core.modes import evaluation_mode
from paddle_infra.explain._model import Arrays, Runner, as_arrays, baseline_arrays
from paddle_infra.explain._target import (
    ScoreName,
    Target,
    as_classes,
    as_positions,
    at_positions,
    check_score,
)
from paddle_infra.explain.attributions import Attributions

# One replacement: the row, and which of its numbers are replaced, by name of the input.
_Trial = tuple[int, dict[str, np.ndarray]]


def occlusion(
    model: paddle.nn.Layer,
    inputs: Any,
    baselines: Any,
    *,
    target: Any = None,
    position: Any = None,
    score: ScoreName = "logit",
    window: int = 1,
    groups: Mapping[str, Any] | None = None,
    batch_size: int = 32,
) -> Attributions:
    """Attribute a score to its inputs by replacing one part after the other with the baseline.

    A part is ``window`` neighbours along the second axis of an input (tokens, or columns of a table), moved by one, or
    a group. The fall of the score, ``F(x) - F(x with the part replaced)``, is shared equally among the places of the
    part where input and baseline differ; a place in several windows gets the mean over them. Places where they do not
    differ, such as padding, get 0. No gradients are taken: any model will do, and integers are replaced themselves.

    Args:
        model: as for :func:`integrated_gradients`.
        inputs: as there; NaN is a value like any other.
        baselines: as there. Inputs without a baseline stay.
        target: as there.
        position: as there.
        score: as there.
        window: how many neighbours are replaced together; not together with ``groups``.
        groups: by name of the input, integers of its first two axes: equal numbers of a row are replaced together
            (words of sub-words: ``word_ids``), negative ones never. Inputs with a baseline and no groups are
            replaced place by place.
        batch_size: replacements computed together.

    Returns:
        ``values`` has an array ``[batch]`` or ``[batch, places]`` for every input with a baseline;
        ``baseline_score`` is that of everything replaced.

    Raises:
        InvalidDtypeError: an argument or an output is of the wrong type.
        InvalidInputError: shapes, names, targets or numbers do not fit.

    References:
        Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", arXiv:1311.2901, section 4.2.
    """
    check_score(score)
    check_positive("window", window)
    check_positive("batch_size", batch_size)
    if groups is not None and window != 1:
        raise InvalidInputError(f"window: expected 1 with groups, got {window}")
    given = as_arrays("inputs", inputs)
    base = baseline_arrays(baselines, given)
    differs = {name: _differs(given[name], base[name]) for name in base}
    parts = {name: _parts(name, differs[name], window, (groups or {}).get(name)) for name in base}
    unknown = sorted(set(groups or {}) - set(base))
    if unknown:
        raise InvalidInputError(f"groups: expected names among {sorted(base)}, got {unknown}")
    runner = Runner(model, given, ())
    batch = len(next(iter(given.values())))
    with evaluation_mode(model), paddle.no_grad():
        output = _run(runner, base, [(row, {}) for row in range(batch)], batch_size)
        positions = as_positions(position, output)
        goal = Target(as_classes(target, at_positions(output, positions)), positions, score)
        everything = np.arange(batch)
        high = goal.scores(output, everything).numpy().astype(np.float64)
        low = _scores(runner, base, goal, [(row, _of_row(differs, row)) for row in range(batch)], batch_size)
        values = {}
        for name, trials in parts.items():
            fallen = _scores(runner, base, goal, [(row, {name: place}) for row, place in trials], batch_size)
            values[name] = _shared(trials, high, fallen, differs[name].shape)
    return Attributions(values, goal.classes, goal.probabilities(output, everything), high, low, "occlusion")


def _differs(array: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Return ``[batch]`` or ``[batch, places]``: where replacing changes anything; NaN equals NaN."""
    same = (array == baseline) | ((array != array) & (baseline != baseline))
    return ~same.reshape(*array.shape[:2], -1).all(axis=-1)


def _parts(name: str, differs: np.ndarray, window: int, groups: Any) -> list[tuple[int, np.ndarray]]:
    """Return rows and places to replace together, only places that differ."""
    found: list[tuple[int, np.ndarray]] = []
    if groups is not None:
        numbers = np.asarray(groups)
        if numbers.shape != differs.shape or numbers.dtype.kind not in "iu":
            raise InvalidInputError(
                f"groups[{name!r}]: expected integers of shape {list(differs.shape)}, got {numbers.dtype} "
                f"{list(numbers.shape)}"
            )
        for row in range(len(differs)):
            found += [(row, (numbers[row] == n) & differs[row]) for n in np.unique(numbers[row]) if n >= 0]
    elif differs.ndim == 1:
        found += [(row, differs[row]) for row in range(len(differs))]
    else:
        length = differs.shape[1]
        places = np.arange(length)
        for begin in range(max(1, length - window + 1)):
            covered = (places >= begin) & (places < begin + window)
            found += [(row, covered & differs[row]) for row in range(len(differs))]
    return [(row, place) for row, place in found if place.any()]


def _of_row(differs: Arrays, row: int) -> dict[str, np.ndarray]:
    return {name: places[row] for name, places in differs.items()}


def _run(runner: Runner, baselines: Arrays, trials: list[_Trial], batch_size: int) -> paddle.Tensor:
    outputs = []
    for begin in range(0, len(trials), batch_size):
        chunk = trials[begin : begin + batch_size]
        rows = np.array([row for row, _ in chunk])
        changed: Arrays = {}
        for name in {name for _, places in chunk for name in places}:
            array = runner.inputs[name][rows]
            for index, (row, places) in enumerate(chunk):
                if name in places:
                    replaced = places[name].reshape(
                        places[name].shape + (1,) * (array.ndim - 1 - places[name].ndim)
                    )
                    array[index] = np.where(replaced, baselines[name][row], array[index])
            changed[name] = array
        outputs.append(runner(rows, instead={}, changed=changed))
    return paddle.concat(outputs)


def _scores(
    runner: Runner, baselines: Arrays, goal: Target, trials: list[_Trial], batch_size: int
) -> np.ndarray:
    scores = [
        goal.scores(_run(runner, baselines, chunk, batch_size), np.array([row for row, _ in chunk])).numpy()
        for chunk in (trials[i : i + batch_size] for i in range(0, len(trials), batch_size))
    ]
    return np.concatenate(scores).astype(np.float64) if scores else np.zeros(0)


def _shared(
    trials: list[tuple[int, np.ndarray]], high: np.ndarray, fallen: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    sums, counts = np.zeros(shape), np.zeros(shape)
    for (row, places), score in zip(trials, fallen, strict=True):
        sums[row] += places * ((high[row] - score) / places.sum())
        counts[row] += places
    return sums / np.maximum(counts, 1.0)
