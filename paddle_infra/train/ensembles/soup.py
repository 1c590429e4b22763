"""Averages of weights: one model out of several that were fine-tuned from the same start."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import paddle

from paddle_infra._core.errors import CheckpointError, InvalidInputError, TrainingError, WeightError
from paddle_infra.train.checkpoints.checkpoint import match_weights, read_checkpoint
from paddle_infra.train.ensembles.ensemble import normalized_weights
from paddle_infra.train.metrics.base import is_better

Tensors = dict[str, paddle.Tensor]


@dataclass(frozen=True)
class Soup:
    """What :func:`greedy_soup` did.

    Attributes:
        ingredients: the checkpoints whose average the model now has, in the order in which they were added.
        value: the metric of the average.
        single: the metric of each checkpoint by itself.
    """

    ingredients: list[Path]
    value: float
    single: dict[Path, float]


def average_weights(
    states: Sequence[Mapping[str, paddle.Tensor]], weights: Sequence[float] | None = None
) -> Tensors:
    r"""Return the weighted average of tensors by name.

    .. math:: \bar\theta = \sum_m w_m \theta_m, \qquad \sum_m w_m = 1

    is taken in float64 and rounded once, to the dtype of the tensors. Integers and booleans (counters,
    positions, masks) have no average: they are taken over if they are equal.

    Args:
        states: for instance ``model.state_dict()`` of each model; none of them is changed.
        weights: one non-negative number per state; they are divided by their sum. None weighs all alike.

    Raises:
        InvalidInputError: no states or bad weights.
        WeightError: names, shapes or dtypes differ, or integers do; every difference is listed.
    """
    if not states:
        raise InvalidInputError("average_weights: expected at least one state, got none")
    shares = normalized_weights(weights, len(states), "average_weights")
    for index, state in enumerate(states[1:], start=1):
        _check_alike(states[0], state, f"state {index}")
    # A plain sum over the count is exact where a sum of thirds is not.
    plain = _Sum(states[0], 1.0 if weights is None else shares[0])
    for state, share in zip(states[1:], shares[1:], strict=True):
        plain.add(state, 1.0 if weights is None else share)
    return plain.average()


def uniform_soup(checkpoints: Sequence[str | os.PathLike[str]], model: paddle.nn.Layer) -> None:
    """Give ``model`` the average of the weights of all ``checkpoints``.

    Memory: one checkpoint and the sum in float64 at a time, whatever their number. Statistics of batch
    normalisation are averaged like weights, which is not what training with the average would give: run some
    batches in training mode afterwards, or use a model without them.

    Raises:
        InvalidInputError: there are no checkpoints.
        CheckpointError: one is damaged or does not fit the model, which is then unchanged.
        WeightError: integer buffers of two checkpoints differ; the model is unchanged.

    References:
        Model soups (arXiv:2203.05482), section 2.
    """
    paths = _paths(checkpoints)
    total = _Sum(_read(paths[0], model), 1.0)
    for path in paths[1:]:
        state = _read(path, model)
        _check_alike(total.first, state, str(path))
        total.add(state, 1.0)
    _load(model, total.average())


def greedy_soup(
    checkpoints: Sequence[str | os.PathLike[str]],
    model: paddle.nn.Layer,
    metric: Callable[[paddle.nn.Layer], float],
    *,
    mode: Literal["max", "min"] = "max",
) -> Soup:
    """Give ``model`` the average of those checkpoints that do not make it worse.

    The checkpoints are tried from the best to the worst by themselves (of equals, in the order given); one is
    kept if the average with it is at least as good as without. So the value is never worse than that of the best
    checkpoint, **on the data of the metric**: take validation data, and other data for the figure to publish.

    Args:
        checkpoints: folders.
        model: a layer that they fit.
        metric: ``metric(model)`` returns the value, for instance
            ``lambda model: trainer.evaluate(loader)["accuracy"]`` with a trainer of that model.
        mode: "max" if larger values are better, "min" if smaller ones are.

    Returns:
        The checkpoints that are in the average, its value, and the value of each by itself.

    Raises:
        InvalidInputError: there are no checkpoints, one is named twice, or the mode is unknown.
        CheckpointError: one is damaged or does not fit the model.
        WeightError: integer buffers of two checkpoints differ.
        TrainingError: no checkpoint has a value that is a number.

    After any error, also one of ``metric``, the model has the weights that it had before.

    References:
        Model soups (arXiv:2203.05482), recipe 1.
    """
    paths = _paths(checkpoints)
    is_better(0.0, None, mode)  # refuses an unknown mode
    first = _read(paths[0], model)
    for path in paths[1:]:
        _check_alike(first, _read(path, model), str(path))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        return _greedy(paths, model, metric, mode)
    except BaseException:
        _load(model, before)
        raise


def _greedy(
    paths: list[Path],
    model: paddle.nn.Layer,
    metric: Callable[[paddle.nn.Layer], float],
    mode: Literal["max", "min"],
) -> Soup:
    single: dict[Path, float] = {}
    for path in paths:
        _load(model, _read(path, model))
        single[path] = float(metric(model))
    sign = -1.0 if mode == "max" else 1.0
    order = sorted((path for path in paths if single[path] == single[path]), key=lambda p: sign * single[p])
    if not order:
        raise TrainingError(f"greedy_soup: expected a value that is a number, got {list(single.values())}")
    total, best = _Sum(_read(order[0], model), 1.0), single[order[0]]
    kept = [order[0]]
    for path in order[1:]:
        tried = total.copy()
        tried.add(_read(path, model), 1.0)
        _load(model, tried.average())
        value = float(metric(model))
        if value == best or is_better(value, best, mode):
            total, best, kept = tried, value, [*kept, path]
    _load(model, total.average())
    return Soup(kept, best, single)


class _Sum:
    """Weighted sums of tensors in float64."""

    def __init__(self, first: Mapping[str, paddle.Tensor], weight: float) -> None:
        self.first, self._weight = dict(first), weight
        self._sums = {
            name: tensor.detach().astype("float64") * weight
            for name, tensor in first.items()
            if _has_average(tensor)
        }

    def copy(self) -> _Sum:
        """Return another sum that can be added to by itself."""
        other = _Sum({}, self._weight)
        other.first, other._sums = self.first, dict(self._sums)
        return other

    def add(self, state: Mapping[str, paddle.Tensor], weight: float) -> None:
        """Add tensors that are known to be alike."""
        for name, total in self._sums.items():
            self._sums[name] = total + state[name].detach().astype("float64") * weight
        self._weight += weight

    def average(self) -> Tensors:
        """Return the sums divided by the sum of the weights, in the dtypes of the first."""
        return {
            name: (self._sums[name] / self._weight).astype(tensor.dtype)
            if name in self._sums
            else tensor.detach().clone()
            for name, tensor in self.first.items()
        }


def _has_average(tensor: paddle.Tensor) -> bool:
    return bool(tensor.is_floating_point())


def _check_alike(first: Mapping[str, paddle.Tensor], other: Mapping[str, paddle.Tensor], who: str) -> None:
    """Compare names, shapes, dtypes, and the values of what has no average."""
    problems = [f"missing: {name}" for name in first if name not in other]
    problems += [f"not in the first: {name}" for name in other if name not in first]
    for name in sorted(first.keys() & other.keys()):
        expected, got = first[name], other[name]
        if list(expected.shape) != list(got.shape) or expected.dtype != got.dtype:
            problems.append(
                f"{name}: expected {expected.dtype}{list(expected.shape)}, got {got.dtype}{list(got.shape)}"
            )
        elif not _has_average(expected) and not bool((expected == got).all()):
            problems.append(
                f"{name}: expected the values of the first ({expected.dtype} has no average), got others"
            )
    if problems:
        raise WeightError(f"{who} does not go with the first: " + "; ".join(problems))


def _paths(checkpoints: Sequence[str | os.PathLike[str]]) -> list[Path]:
    paths = [Path(path) for path in checkpoints]
    if not paths or len({path.resolve() for path in paths}) != len(paths):
        raise InvalidInputError(
            f"soup: expected at least one checkpoint and none twice, got {[str(path) for path in paths]}"
        )
    return paths


def _read(path: Path, model: paddle.nn.Layer) -> Tensors:
    weights = read_checkpoint(path).weights
    try:
        match_weights(model, weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return weights


def _load(model: paddle.nn.Layer, weights: Mapping[str, Any]) -> None:
    for target, value in match_weights(model, dict(weights)):
        target.set_value(value)
