"""Integrated gradients: the change of a score, shared out among the inputs along a straight path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import paddle

from paddle_infra._core.checks import check_choice, check_positive
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.explain._model import Arrays, Runner, as_arrays, baseline_arrays
from paddle_infra.explain._modes import differentiable_evaluation_mode
from paddle_infra.explain._target import (
    ScoreName,
    Target,
    as_classes,
    as_positions,
    at_positions,
    check_score,
)
from paddle_infra.explain.attributions import Attributions

RuleName = Literal["gauss_legendre", "trapezoid"]
_RULES = ("gauss_legendre", "trapezoid")


def integrated_gradients(
    model: paddle.nn.Layer,
    inputs: Any,
    baselines: Any,
    *,
    layers: Sequence[str] = (),
    direct: Sequence[str] | None = None,
    target: Any = None,
    position: Any = None,
    score: ScoreName = "logit",
    steps: int = 32,
    rule: RuleName = "gauss_legendre",
    batch_size: int = 32,
) -> Attributions:
    r"""Attribute a score to its inputs by integrating gradients from a baseline to the inputs.

    .. math::
        a_i = (x_i - x'_i) \int_0^1 \frac{\partial F(x' + \alpha (x - x'))}{\partial x_i} \, d\alpha, \qquad
        \sum_i a_i = F(x) - F(x')

    The path runs through the ``direct`` inputs, and through the *outputs* of the named ``layers``:
    an embedding layer's output is taken for the inputs and for the baselines, and a hook puts the points in between in
    its place. Integers themselves (token ids, masks) stay those of the inputs all along the path. So in
    ``BertForSequenceClassification``, whose layer ``"encoder.embeddings"`` looks up, adds positions and normalizes in
    one operator, the path runs *after* that norm, between two normalized sequences.

    The model runs in evaluation mode, and afterwards its layers are in the modes in which they were; gradients of
    parameters are not touched.

    Args:
        model: returns logits ``[batch]``, ``[batch, classes]`` or, for tokens, ``[batch, length, classes]``.
        inputs: arrays or tensors by name of the argument of ``forward``, first axis the batch, dtypes as the model
            takes them. A number of a direct input that is NaN (missing) takes its baseline, and so gets 0.
        baselines: what stands for "no information", by name, broadcast to the inputs: see
            :func:`token_baseline`; means or medians of numbers; a class for "unknown".
        layers: structured names of layers that run once and return a tensor ``[batch, ...]``.
        direct: names of floating inputs with a baseline; None: all of them. Leave out one that a named layer takes,
            if that layer gives NaN a meaning of its own.
        target: the explained class, or one for each row; None: the predicted one.
        position: the explained token, or one for each row, of outputs ``[batch, length, classes]``.
        score: ``"logit"``, ``"log_probability"`` or ``"probability"``.
        steps: points on the path.
        rule: ``"gauss_legendre"`` (exact for polynomials of degree ``2 steps - 1``) or ``"trapezoid"``
            (evenly spaced, with both ends).
        batch_size: points computed together, over all rows: the bound of the memory.

    Returns:
        ``values`` has an array for every direct input and every layer.

    Raises:
        InvalidDtypeError: an argument or an output is of the wrong type.
        InvalidInputError: shapes, names, targets or numbers do not fit, or there is no path at all.

    References:
        Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", arXiv:1703.01365, section 3. They use a
        Riemann sum with 20 to 300 steps; Gauss-Legendre needs fewer where the score is smooth.
    """
    check_score(score)
    nodes, weights = _nodes(rule, steps)
    check_positive("batch_size", batch_size)
    given = as_arrays("inputs", inputs)
    base = baseline_arrays(baselines, given)
    through = _direct(direct, given, base)
    if both := sorted(set(through) & set(layers)):
        raise InvalidInputError(f"layers: expected other names than those of direct inputs, got {both}")
    given |= {name: np.where(np.isnan(given[name]), base[name], given[name]) for name in through}
    runner = Runner(model, given, layers)
    batch = len(next(iter(given.values())))
    with differentiable_evaluation_mode(model) as also:
        start, end = _ends(runner, given, base, through, batch_size)
        if not end:
            raise InvalidInputError(
                f"layers: expected a layer or a floating input with a baseline, got {list(layers)} "
                f"and baselines for {sorted(base)}"
            )
        with paddle.no_grad():
            goal, probability, high = _outcome(runner, batch, target, position, score, batch_size)
            low = np.concatenate(
                [
                    goal.scores(runner(rows, instead=_rows_of(start, rows)), rows).numpy()
                    for rows in _chunks(np.arange(batch), batch_size)
                ]
            )
        sums = {name: np.zeros(tensor.shape) for name, tensor in end.items()}
        points = np.arange(batch * len(nodes))
        for chunk in _chunks(points, batch_size):
            rows, where = chunk // len(nodes), chunk % len(nodes)
            gradients = _gradients(runner, goal, start, end, rows, nodes[where], also)
            for name, gradient in gradients.items():
                weight = weights[where].reshape([-1] + [1] * (gradient.ndim - 1))
                np.add.at(sums[name], rows, gradient * weight)
    values = {name: (end[name].numpy().astype(np.float64) - start[name].numpy()) * sums[name] for name in end}
    return Attributions(
        values, goal.classes, probability, high, low.astype(np.float64), "integrated gradients"
    )


def _nodes(rule: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    check_choice("rule", rule, _RULES)
    check_positive("steps", steps)
    if rule == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (nodes + 1.0) / 2.0, weights / 2.0
    if steps < 2:
        raise InvalidInputError(f"steps: expected at least 2 for the trapezoid rule, got {steps}")
    weights = np.full(steps, 1.0 / (steps - 1))
    weights[[0, -1]] /= 2.0
    return np.linspace(0.0, 1.0, steps), weights


def _direct(names: Sequence[str] | None, inputs: Arrays, baselines: Arrays) -> list[str]:
    floating = [name for name in baselines if inputs[name].dtype.kind == "f"]
    if names is None:
        return floating
    unknown = sorted(set(names) - set(floating))
    if unknown:
        raise InvalidInputError(
            f"direct: expected floating inputs with a baseline, {floating}, got {unknown}"
        )
    return list(names)


def _chunks(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for begin in range(0, len(indices), size):
        yield indices[begin : begin + size]


def _rows_of(tensors: dict[str, paddle.Tensor], rows: np.ndarray) -> dict[str, paddle.Tensor]:
    index = paddle.to_tensor(rows)
    return {name: paddle.index_select(tensor, index, axis=0) for name, tensor in tensors.items()}


def _ends(
    runner: Runner, inputs: Arrays, baselines: Arrays, direct: Sequence[str], batch_size: int
) -> tuple[dict[str, paddle.Tensor], dict[str, paddle.Tensor]]:
    """Return both ends of the path: direct inputs, and outputs of layers."""

    def end(arrays: Arrays) -> dict[str, paddle.Tensor]:
        batch = len(next(iter(arrays.values())))
        parts = [
            runner.outputs_of_layers({name: array[rows] for name, array in arrays.items()})
            for rows in _chunks(np.arange(batch), batch_size)
        ]
        made = {name: paddle.concat([part[name] for part in parts]) for name in parts[0]}
        return {name: paddle.to_tensor(arrays[name]) for name in direct} | made

    return end(inputs | baselines), end(inputs)


def _outcome(
    runner: Runner, batch: int, target: Any, position: Any, score: ScoreName, batch_size: int
) -> tuple[Target, np.ndarray, np.ndarray]:
    """Run the inputs; return what is explained, and its probability and score for every row."""
    everything = np.arange(batch)
    output = paddle.concat([runner(rows, instead={}) for rows in _chunks(everything, batch_size)])
    positions = as_positions(position, output)
    goal = Target(as_classes(target, at_positions(output, positions)), positions, score)
    scores = goal.scores(output, everything).numpy().astype(np.float64)
    return goal, goal.probabilities(output, everything), scores


def _gradients(
    runner: Runner,
    goal: Target,
    start: dict[str, paddle.Tensor],
    end: dict[str, paddle.Tensor],
    rows: np.ndarray,
    alphas: np.ndarray,
    also: list[paddle.Tensor],
) -> dict[str, np.ndarray]:
    """Return the gradients of the scores at points of the path."""
    low, high = _rows_of(start, rows), _rows_of(end, rows)
    points = {}
    for name in end:
        shape = [-1] + [1] * (len(low[name].shape) - 1)
        alpha = paddle.to_tensor(alphas.reshape(shape), dtype=low[name].dtype)
        points[name] = low[name] + alpha * (high[name] - low[name])
        points[name].stop_gradient = False
    with paddle.set_grad_enabled(True):
        scores = goal.scores(runner(rows, instead=points), rows)
        found = paddle.grad(scores.sum(), [*points.values(), *also], allow_unused=True)
    zero = {name: np.zeros(point.shape) for name, point in points.items()}
    return {
        name: zero[name] if gradient is None else gradient.numpy().astype(np.float64)
        for name, gradient in zip(points, found, strict=False)  # without those of `also`
    }
